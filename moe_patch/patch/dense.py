"""Changes of experts that have no low rank: one whole matrix for each touched expert."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from moe_patch.errors import SolveError


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """What is added to the down projections of n experts, as it is and not as factors.

    Raises:
        SolveError: shapes do not fit, or experts do not ascend.
    """

    value: Tensor  # (n, d_m, d_k) fp32
    expert: Tensor  # (n,) int64, ascending

    def __post_init__(self) -> None:
        if self.value.ndim != 3 or self.expert.shape != self.value.shape[:1]:
            raise SolveError(
                "dense changes need a value (n, d_m, d_k) and an expert (n,); got "
                f"{tuple(self.value.shape)} and {tuple(self.expert.shape)}"
            )
        if bool((self.expert[1:] <= self.expert[:-1]).any()):
            raise SolveError("dense changes ascend by expert, with one of each")

    @classmethod
    def of_experts(cls, changes: Mapping[int, Tensor]) -> Dense | None:
        """The changes (d_m, d_k) of experts as one stack in fp32 on the CPU; None if there are none."""
        if not changes:
            return None
        experts = sorted(changes)
        value = torch.stack([changes[expert].detach().float().cpu() for expert in experts])  # (n, d_m, d_k)
        return cls(value, torch.tensor(experts, dtype=torch.int64))

    def experts(self) -> list[int]:
        """The experts that this changes, in ascending order."""
        return [int(expert) for expert in self.expert]

    def of(self, expert: int) -> Tensor | None:
        """One expert's change (d_m, d_k), a view; None if it has none."""
        place = int(torch.searchsorted(self.expert, expert))
        if place == len(self.expert) or int(self.expert[place]) != expert:
            return None
        return self.value[place]


def add_dense(first: Dense | None, second: Dense | None) -> Dense | None:
    """The sum of both, over the experts of either."""
    if first is None or second is None:
        return second if first is None else first
    experts = sorted({*first.experts(), *second.experts()})
    total = first.value.new_zeros(len(experts), *first.value.shape[1:])  # (n', d_m, d_k)
    union = torch.tensor(experts, dtype=torch.int64)
    for each in (first, second):
        total[torch.searchsorted(union, each.expert)] += each.value
    return Dense(total, union)

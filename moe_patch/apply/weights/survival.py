"""How much of an edit is left when the weights that carry it have been rounded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from moe_patch.base.experts import Delta
from moe_patch.patch import LayerDelta, Patch

STATED_LOSS = 0.1
"""The share of a fact's edit from which on what rounding took of it is said aloud."""


@dataclass(frozen=True, slots=True, eq=False)
class ExpertContribution:
    """One expert's share in what facts were to receive at a layer, and in what is missing of it."""

    layer: int
    fact: Tensor  # (n,)
    wanted: Tensor  # (n, d_m)
    missing: Tensor  # (n, d_m)


class Survival:
    """What rounding took from each fact of a patch, measured on the fact's own keys.

    At an edited layer, fact t was to receive sum_j D_j g_tj k~_tj, and receives the same sum with what the
    weights really changed by. The share lost is the norm of the difference over the norm of the first.
    """

    def __init__(self, patch: Patch) -> None:
        self._layers = patch.layers
        self._wanted = {index: _zeros(delta) for index, delta in patch.layers.items()}  # (T, d_m) each
        self._missing = {index: _zeros(delta) for index, delta in patch.layers.items()}

    def add(self, layer: int, expert: int, wanted: Iterable[Delta], missing: Tensor) -> None:
        """Count an expert that was to change by all of `wanted`, less what is `missing`, (d_m, d_k)."""
        self.count(self.contribution(layer, expert, wanted, missing))

    def contribution(
        self, layer: int, expert: int, wanted: Iterable[Delta], missing: Tensor
    ) -> ExpertContribution | None:
        """What `add` would count, without counting it yet: threads may each take a part."""
        if layer not in self._layers:
            return None
        key, fact = self._layers[layer].fact_rows.of(expert)  # (n, d_k) and (n,)
        asked = torch.zeros(len(key), missing.shape[0])  # (n, d_m)
        for delta in wanted:
            row = (delta.rows.expert == expert).nonzero().squeeze(1)  # (m,)
            asked += (key @ delta.rows.value[row].T) @ delta.left[delta.rows.fact[row]]
        return ExpertContribution(layer, fact, asked, (missing.to(key.dtype) @ key.T).T)

    def count(self, contribution: ExpertContribution | None) -> None:
        """Count a part. In which order decides about the last bits."""
        if contribution is not None:
            self._wanted[contribution.layer].index_add_(0, contribution.fact, contribution.wanted)
            self._missing[contribution.layer].index_add_(0, contribution.fact, contribution.missing)

    def shares(self) -> Tensor:
        """The share lost by each fact at each layer where it was to receive something, (n,)."""
        parts = [torch.zeros(0)]
        for layer, value in self._wanted.items():
            wanted, missing = value.norm(dim=1), self._missing[layer].norm(dim=1)  # (T,)
            parts.append((missing / wanted)[wanted > 0])
        return torch.cat(parts)

    def lost(self) -> dict[str, float]:
        """The largest of the shares and the median one; nothing for a patch whose facts say nothing."""
        shares = self.shares()
        return {"worst": float(shares.max()), "median": float(shares.median())} if len(shares) else {}


def _zeros(delta: LayerDelta) -> Tensor:
    return torch.zeros(delta.fact_rows.num_facts, delta.left.shape[1])  # (T, d_m)

"""What a search minimises: the losses of groups of facts as functions of the groups' deltas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_patch.base.model import Base
from moe_patch.targets.answers import Answers
from moe_patch.targets.groups import Group
from moe_patch.targets.tail import Reads, open_pass


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The losses of G groups with T facts in total."""

    nll: Tensor  # (T,) of each fact's target, in nats a token; differentiable in the deltas
    kl: Tensor  # (G,) the weighted KL of each group; differentiable in the deltas
    margin: Tensor  # (T,) the least lead of a fact's tokens over the next best, in nats


class GroupLosses:
    """The losses of G groups with T facts in total."""

    def __init__(
        self,
        base: Base,
        groups: Sequence[Group],
        layer: int,
        *,
        prefixes: int,
        shares: Sequence[float],
        check: bool,
    ) -> None:
        """Of groups with T facts in all.

        Args:
            base: the model.
            groups: the groups.
            layer: the decoder layer that the deltas are added to.
            prefixes: contexts of each fact.
            shares: of its delta that each of a fact's own prompts is tried with; what is held gets all of it.
            check: as for `open_pass`.
        """
        self.facts = torch.tensor([number for group in groups for number in group.facts])  # (T,)
        sizes = torch.tensor([len(group.facts) for group in groups])
        self.group = torch.arange(len(groups)).repeat_interleave(sizes)  # (T,) the group of each fact
        rewrites = [prompt for group in groups for prompt in group.rewrites for _ in shares]
        held = [prompt for group in groups for prompt, _ in group.held]
        self._weight = torch.tensor([weight for group in groups for _, weight in group.held])  # (H,)
        holds = torch.tensor([len(group.held) for group in groups])
        self._held_by = torch.arange(len(groups)).repeat_interleave(holds)  # (H,)
        self._tries = prefixes * len(shares)  # of each fact
        self._answers = Answers.of(rewrites)
        self._owner = torch.cat([self.group.repeat_interleave(self._tries), self._held_by])  # (B,)
        self._share = torch.ones(len(self._owner), 1)  # (B, 1)
        self._share[: len(rewrites), 0] = torch.tensor(shares).repeat(len(rewrites) // len(shares))
        last = torch.tensor([len(prompt.ids) - 1 for prompt in held])
        reads = Reads(
            torch.cat([self._answers.reads.row, len(rewrites) + torch.arange(len(held))]),
            torch.cat([self._answers.reads.index, last]),
        )
        self._changed = open_pass(base, [*rewrites, *held], reads, layer, check=check)
        self._before = F.log_softmax(self._changed.unchanged()[-len(held) :].float(), dim=-1)  # (H, V)

    @property
    def start(self) -> Tensor:
        """(T, d_m) fp32: the layer's output at the edited token of each fact's prompt, without a prefix."""
        return self._changed.start[: len(self.facts) * self._tries : self._tries].float()

    def __call__(self, delta: Tensor) -> Evaluation:
        """The losses for deltas (G, d_m): a fact's mean NLL over contexts and shares, and least margin."""
        logits = self._changed.logits(delta[self._owner] * self._share.to(delta.device))
        answers, held = logits[: len(self._answers.ids)], logits[len(self._answers.ids) :]
        after = F.log_softmax(held.float(), dim=-1)  # (H, V)
        each = (after.exp() * (after - self._before)).sum(-1) * self._weight.to(after.device)  # (H,)
        kl = each.new_zeros(len(delta)).index_add(0, self._held_by.to(each.device), each)
        nll = self._answers.nll(answers).view(-1, self._tries).mean(1)
        margin = self._answers.margin(answers.detach()).view(-1, self._tries).amin(1)
        return Evaluation(nll, kl, margin)


def per_group(values: Tensor, group: Tensor, reduce: str) -> Tensor:
    """Values (T,) reduced by group to (G,). `group` (T,) is ascending."""
    group = group.to(values.device)
    empty = values.new_zeros(int(group[-1]) + 1)
    return empty.scatter_reduce(0, group, values, reduce, include_self=False)

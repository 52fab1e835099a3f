"""The descent to target values, for several groups of facts at once.

Groups do not interact. Each has its own optimiser state, loss and end, so a batch of groups gives the same
result as one group at a time. The delta of a group that has ended stays fixed. Once a quarter of the groups
have ended, these leave the batch: to open it again costs about half a step.

A delta is searched for in its group's units, as unit * u. Adam's steps of u have the same length on every
model, and so the search is the same for a model whose stream is a multiple of another's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from moe_patch.base.model import Base
from moe_patch.solve.finite import check_finite
from moe_patch.targets.groups import Group
from moe_patch.targets.losses import Evaluation, GroupLosses, per_group
from moe_patch.targets.options import TargetOptions
from moe_patch.targets.size import stream_size
from moe_patch.targets.values import Ending, Targets

_LOWER = 0.01  # a loss counts as lower if it is by this share
_STILL_OPEN = 0.75  # share of a batch's groups: when no more are open, the others leave it
_AT_CLAMP = 0.999  # share of the clamp from which on it holds a delta back


@dataclass(frozen=True, slots=True, eq=False)
class _Units:
    """What the options' numbers are multiples of, for G groups."""

    step: Tensor  # (G,) Adam's step of one coordinate
    decay: Tensor  # (G,) weight of ||delta||
    limit: Tensor  # (G,) largest ||delta||

    @classmethod
    def of(cls, start: Tensor, group: Tensor, options: TargetOptions) -> _Units:
        """For streams (T, d_m) of facts in groups (T,)."""
        if options.units == "published":
            norm = per_group(start.norm(dim=1), group, "mean")  # (G,)
            return cls(torch.ones_like(norm), options.weight_decay / norm**2, options.clamp * norm)
        size = per_group(stream_size(start), group, "mean")  # (G,)
        return cls(size / start.shape[1] ** 0.5, options.weight_decay / size, options.clamp * size)


class _Progress:
    """How far the search for each of G groups with T facts has come."""

    def __init__(self, facts: int, groups: int, options: TargetOptions) -> None:
        self._options = options
        self.before, self.after, self.margin = (torch.zeros(facts) for _ in range(3))  # (T,) each
        self.steps = torch.zeros(groups, dtype=torch.long)
        self.ended: list[Ending | None] = [None] * groups
        self._best, self._since = torch.full((groups,), torch.inf), torch.zeros(groups, dtype=torch.long)

    def open(self, active: Tensor) -> Tensor:
        """Which of the active groups (A,) have not ended, (A,)."""
        return torch.tensor([self.ended[number] is None for number in active.tolist()])

    def record(
        self, step: int, active: Tensor, losses: GroupLosses, found: Evaluation, rest: Tensor, held: Tensor
    ) -> None:
        """Take in an evaluation, and end groups.

        Args:
            step: the number of the evaluation, from 1.
            active: (A,) numbers of the groups evaluated.
            losses: of these groups.
            found: the evaluation.
            rest: (A,) the loss of each group beside its NLLs.
            held: (A,) whether the clamp holds the delta back.
        """
        options, nll, margin = self._options, found.nll.detach().cpu(), found.margin.cpu()
        open_ = self.open(active)
        of_open = open_[losses.group]
        self.after[losses.facts[of_open]] = nll[of_open]
        self.margin[losses.facts[of_open]] = margin[of_open]
        if step == 1:
            self.before = self.after.clone()
        worst = per_group(nll + rest[losses.group], losses.group, "amax")  # (A,)
        total = per_group(nll, losses.group, "mean") + rest
        done = worst < options.stop_loss
        if options.margin is not None:
            done |= per_group(margin, losses.group, "amin") >= options.margin
        for place in open_.nonzero()[:, 0].tolist():
            number = int(active[place])
            self.steps[number] = step
            if total[place] < (1 - _LOWER) * self._best[number]:
                self._best[number], self._since[number] = total[place], step
            self.ended[number] = self._ending(step, number, bool(done[place]), bool(held[place]))

    def _ending(self, step: int, number: int, done: bool, held: bool) -> Ending | None:
        options = self._options
        if done:
            return "done"
        if options.patience is not None and step - int(self._since[number]) >= options.patience:
            return "clamp" if held else "stalled"
        return "steps" if step == options.steps else None


def descend(
    base: Base,
    groups: Sequence[Group],
    layer: int,
    options: TargetOptions,
    *,
    prefixes: int,
    report: Callable[[int, int], None],
) -> Targets:
    """Run Adam on every group's own loss until the search for the group ends.

    Raises:
        TargetError: the layer has no single residual stream.
        NumericalError: a loss is not finite.
    """
    at_shares = partial(GroupLosses, base, layer=layer, prefixes=prefixes, shares=options.shares)
    losses = at_shares(groups, check=True)
    start, group = losses.start, losses.group  # (T, d_m), (T,)
    units = _Units.of(start, group, options)
    u = torch.zeros(len(groups), start.shape[1], device=start.device, requires_grad=True)  # (G, d_m)
    adam = torch.optim.Adam([u], lr=options.learning_rate)
    active = torch.arange(len(groups))
    went = _Progress(len(start), len(groups), options)
    for step in range(1, options.steps + 1):
        delta = (units.step[:, None] * u)[active]  # (A, d_m)
        found, size = losses(delta), delta.norm(dim=1)
        rest = found.kl + units.decay[active] * size  # (A,)
        total = per_group(found.nll, losses.group, "sum") + rest
        check_finite(total.detach().cpu(), "the losses of the target value", _place(groups, active, layer))
        held = size.detach() >= _AT_CLAMP * units.limit[active]
        went.record(step, active, losses, found, rest.detach().cpu(), held.cpu())
        report(step, options.steps)
        open_ = went.open(active)
        if not bool(open_.any()):
            break
        adam.zero_grad()
        total[open_].sum().backward()  # in a sum, no group's gradient depends on the others
        _advance(adam, u, went.open(torch.arange(len(groups))), units.limit / units.step)
        if int(open_.sum()) <= _STILL_OPEN * len(active):
            active = active[open_]
            losses = at_shares([groups[number] for number in active.tolist()], check=False)
    value = start + (units.step[:, None] * u).detach()[group]  # (T, d_m)
    if options.share < 1:
        went.after = torch.tensor(losses_of(base, groups, layer, value, prefixes=prefixes))
    return _targets(value, start, group, went)


def losses_of(
    base: Base, groups: Sequence[Group], layer: int, value: Tensor, *, prefixes: int
) -> list[float]:
    """The loss of each fact with the target values (T, d_m) in place, which are equal within a group."""
    losses = GroupLosses(base, groups, layer, prefixes=prefixes, shares=(1.0,), check=False)
    first = [group.facts[0] for group in groups]
    with torch.no_grad():
        found = losses((value.to(losses.start) - losses.start)[first])
    return found.nll.tolist()


def _place(groups: Sequence[Group], active: Tensor, layer: int) -> Callable[[int], str]:
    """Names the facts of a group, given by its number among the active ones (A,)."""

    def place(number: int) -> str:
        return f"of fact {' and '.join(groups[int(active[number])].ids)} at layer {layer}"

    return place


def _advance(adam: torch.optim.Optimizer, u: Tensor, open_: Tensor, limit: Tensor) -> None:
    """One optimiser step for the rows of u (G, d_m) that are open. Norms are clamped to `limit` (G,)."""
    held = u.detach().clone()
    adam.step()
    with torch.no_grad():
        size = u.norm(dim=1)
        scale = torch.where(size > limit, limit / size.clamp_min(1e-12), 1.0)  # (G,)
        u.copy_(torch.where(open_.to(u.device)[:, None], u * scale[:, None], held))


def _targets(value: Tensor, start: Tensor, group: Tensor, went: _Progress) -> Targets:
    ended = [ending for ending in went.ended if ending is not None]
    return Targets(
        value=value,
        start=start,
        loss_before=tuple(went.before.tolist()),
        loss_after=tuple(went.after.tolist()),
        margin=tuple(went.margin.tolist()),
        steps=tuple(went.steps[group].tolist()),
        ended=tuple(ended[number] for number in group.tolist()),
    )

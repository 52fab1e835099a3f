"""Target values, and how the search for each of them went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor

T = TypeVar("T")
Ending = Literal["done", "clamp", "stalled", "steps"]
"""Why a search ended: done as asked; no lower loss for a while, at the clamp or within it; out of steps."""

ENDINGS: tuple[Ending, ...] = get_args(Ending)


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Target values of T facts at one layer, and how the search went."""

    value: Tensor  # (T, d_m) fp32: z*
    start: Tensor  # (T, d_m) fp32: the layer's output before the edit
    loss_before: tuple[float, ...]  # (T,) negative log-likelihood per target token, in nats
    loss_after: tuple[float, ...]  # (T,) the same with the target value in place
    margin: tuple[float, ...]  # (T,) how far the answer's tokens lead the next best then, at least, in nats
    steps: tuple[int, ...]  # (T,) evaluations until the search for the fact ended
    ended: tuple[Ending, ...]  # (T,)


def in_order(parts: Sequence[Targets], numbers: Sequence[int]) -> Targets:
    """All parts in one, in the order of facts. Before, row i of the parts is that of fact `numbers[i]`."""
    order = sorted(range(len(numbers)), key=numbers.__getitem__)
    return Targets(
        value=torch.cat([part.value for part in parts])[order],
        start=torch.cat([part.start for part in parts])[order],
        loss_before=_picked([part.loss_before for part in parts], order),
        loss_after=_picked([part.loss_after for part in parts], order),
        margin=_picked([part.margin for part in parts], order),
        steps=_picked([part.steps for part in parts], order),
        ended=_picked([part.ended for part in parts], order),
    )


def _picked(parts: Sequence[Sequence[T]], order: Sequence[int]) -> tuple[T, ...]:
    whole = [one for part in parts for one in part]
    return tuple(whole[number] for number in order)

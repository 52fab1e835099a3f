"""How large a patch's changes are, compared with the experts that they change."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from moe_patch.errors import OversizedEdit
from moe_patch.patch import Patch
from moe_patch.solve.delta_algebra import delta_penalties

LARGEST_RATIO = 100.0
"""The greatest ||D_j||_F / ||W_j||_F that is written without being asked for; 1,000 facts reach 21."""

WeightOf = Callable[[int, int], Tensor]
"""An expert's own down projection (d_m, d_k), by layer and expert."""


@dataclass(frozen=True, slots=True)
class EditSize:
    """How large the change of one expert is."""

    layer: int
    expert: int
    change: float  # ||D_j||_F
    weight: float  # ||W_j||_F of the expert itself

    @property
    def ratio(self) -> float:
        """The change as a multiple of the expert."""
        if not self.change:
            return 0.0
        return self.change / self.weight if self.weight else math.inf


def change_norms(patch: Patch) -> dict[tuple[int, int], float]:
    """||D_j||_F of every expert that the patch changes, by layer and expert."""
    return {
        (layer, expert): math.sqrt(square)
        for layer, delta in patch.layers.items()
        for expert, square in delta_penalties(delta).items()
    }


def edit_sizes(patch: Patch, weight_of: WeightOf) -> Iterator[EditSize]:
    """The size of every expert's change. One weight at a time is read."""
    for (layer, expert), change in change_norms(patch).items():
        yield EditSize(layer, expert, change, float(weight_of(layer, expert).float().norm()))


def largest_edit(patch: Patch, weight_of: WeightOf) -> EditSize | None:
    """The change that is largest for its expert; None if the patch changes no expert."""
    return max(edit_sizes(patch, weight_of), key=lambda size: size.ratio, default=None)


def check_size(patch: Patch, largest: EditSize | None) -> None:
    """Check the largest change of a patch.

    Raises:
        OversizedEdit: it is more than `LARGEST_RATIO` times as large as its expert.
    """
    if largest is not None and largest.ratio > LARGEST_RATIO:
        raise OversizedEdit(
            f"patch {patch.hash}: layer {largest.layer}, expert {largest.expert}: the norm of the change is "
            f"{largest.ratio:.3g} times that of the expert itself, and more than {LARGEST_RATIO:g} times is "
            "no edit: allow large changes if you trust the patch"
        )


def refuse_oversized(patch: Patch, weight_of: WeightOf) -> None:
    """Check that no change is much larger than the expert that it changes.

    Raises:
        OversizedEdit: as for `check_size`.
    """
    check_size(patch, largest_edit(patch, weight_of))

"""One expert's bytes on disk with patches added, and how much of the patches rounding loses there."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from moe_patch.apply.weights.finite import require_finite
from moe_patch.apply.weights.rounding import Rounding
from moe_patch.apply.weights.size import EditSize, change_norms, check_size
from moe_patch.apply.weights.summed import patched_weight
from moe_patch.apply.weights.survival import ExpertContribution, Survival
from moe_patch.checkpoint.names import AnySlot
from moe_patch.checkpoint.rewrite import Piece
from moe_patch.patch import LayerDelta, Patch

T = TypeVar("T")
R = TypeVar("R")

_THREADS = 2
_AHEAD = 4  # experts in memory at a time


@dataclass(frozen=True, slots=True)
class ExpertChange:
    """An expert that patches change, and where it is stored."""

    layer: int
    expert: int
    slot: AnySlot


class CheckpointEditor:
    """Adds patches, in order, to experts of the checkpoint in `folder`, and rounds once.

    The arithmetic is the same as in memory, to the bit. `survival` records by patch hash what rounding loses.
    Experts are recorded in the order in which they are given, whichever thread finishes first.
    """

    def __init__(
        self, folder: Path, patches: Sequence[Patch], rounding: Rounding, *, allow_large: bool
    ) -> None:
        self._folder, self._patches, self._rounding = folder, patches, rounding
        self._norms = [] if allow_large else [(patch, change_norms(patch)) for patch in patches]
        self.survival = {patch.hash: Survival(patch) for patch in patches}

    def pieces(self, changes: Iterable[ExpertChange]) -> Iterator[Piece]:
        """The new bytes of each changed expert, with the place in its file where they begin.

        Raises:
            NotFinite: a weight would overflow its dtype.
            OversizedEdit: a change is much larger than its expert, and that is not allowed.
        """
        for change, (raw, parts) in in_order(self._edited, changes):
            self._count(parts)
            yield change.slot.begin, raw

    def measure(self, changes: Iterable[ExpertChange], written: Path) -> None:
        """Record what rounding lost in experts that an earlier run has written to the file `written`."""
        for _, parts in in_order(lambda change: self._found(change, written), changes):
            self._count(parts)

    def _edited(self, change: ExpertChange) -> tuple[memoryview, list[ExpertContribution | None]]:
        slot, deltas = change.slot, self._deltas(change)
        own = slot.read(self._folder)
        self._check_sizes(change, own)
        exact = patched_weight(own, change.expert, deltas)
        require_finite(exact, change.layer, change.expert)  # codes of few bits would hide what is not
        raw, rounded = slot.write(self._folder, exact, self._keys(change, deltas))
        require_finite(rounded, change.layer, change.expert)
        missing = exact.sub_(rounded.to(exact.dtype))  # in place: allocating takes as long as subtracting
        return raw, self._parts(change, deltas, missing)

    def _found(self, change: ExpertChange, written: Path) -> list[ExpertContribution | None]:
        slot, deltas = change.slot, self._deltas(change)
        rounded = slot.read(self._folder, written)
        exact = patched_weight(slot.read(self._folder), change.expert, deltas)
        return self._parts(change, deltas, exact.sub_(rounded))

    def _check_sizes(self, change: ExpertChange, own: Tensor) -> None:
        """Check each patch's change of an expert here, where its weight (d_m, d_k) has been read anyway."""
        place = change.layer, change.expert
        weight = float(own.float().norm()) if self._norms else 0.0
        for patch, norms in self._norms:
            if place in norms:
                check_size(patch, EditSize(*place, norms[place], weight))

    def _keys(self, change: ExpertChange, deltas: Sequence[LayerDelta]) -> Tensor:
        """The rows (n, d_k) of the facts whose outputs rounding should keep; none for "nearest"."""
        none = torch.zeros(0, change.slot.shape[1])
        if self._rounding == "nearest":
            return none
        return torch.cat([none, *(delta.fact_rows.of(change.expert)[0] for delta in deltas)])

    def _deltas(self, change: ExpertChange) -> list[LayerDelta]:
        """The deltas that touch an expert, in the order of the patches."""
        at = (patch.layers[change.layer] for patch in self._patches if change.layer in patch.layers)
        return [delta for delta in at if delta.touches(change.expert)]

    def _parts(
        self, change: ExpertChange, deltas: Sequence[LayerDelta], missing: Tensor
    ) -> list[ExpertContribution | None]:
        survivals = self.survival.values()
        return [one.contribution(change.layer, change.expert, deltas, missing) for one in survivals]

    def _count(self, parts: Iterable[ExpertContribution | None]) -> None:
        for one, contribution in zip(self.survival.values(), parts, strict=True):
            one.count(contribution)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Have torch compute in the calling threads: threads of its own would compete with them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_order(work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
    """Each item with the result of `work`, in the order of the items; threads work a few items ahead."""
    with ThreadPoolExecutor(_THREADS) as pool:
        waiting: deque[tuple[T, Future[R]]] = deque()
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) > _AHEAD:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()

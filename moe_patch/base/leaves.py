"""The hashes of a live model's tensors, computed again only for those that changed.

A tensor counts as unchanged while its memory, its dtype and torch's count of its changes are the same. Writes
past that count, through `.data`, go unnoticed if they stay in place.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from accelerate.utils import align_module_device
from torch import Tensor, nn

from moe_patch.base.digests import HashProgress, Pieces, hash_pieces, runs
from moe_patch.base.parts import Part
from moe_patch.errors import ModelError
from moe_patch.progress import Progress

if TYPE_CHECKING:
    from moe_patch.base.moe import MoELayer

State = tuple[int, torch.dtype, int]
"""What changes when a tensor does: torch's count of changes, the dtype, and the address."""


@dataclass(slots=True)
class _Seen:
    """A tensor's state when it was seen, and the hashes of its pieces, (n, 32) uint8."""

    state: State
    pieces: Tensor


_seen: weakref.WeakKeyDictionary[nn.Module, dict[str, _Seen]] = weakref.WeakKeyDictionary()


def live_pieces(
    parts: list[Part],
    originals: Mapping[str, Mapping[int, Tensor]],
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """The hashes (n, 32) of the pieces of a live model's tensors, by their names.

    Args:
        parts: the tensors.
        originals: by the name of a stack, the matrices (d_m, d_k) that stand for what a merge has changed.
        progress: as for `hash_pieces`.

    Raises:
        ModelError: a tensor has no data.
    """
    found: dict[str, Tensor] = {}
    report = HashProgress(sum(part.tensor.nbytes for part in parts), progress)
    for part in parts:
        seen = _seen.get(part.owner, {}).get(part.attribute)
        if seen is None or seen.state != state_of(part.tensor):
            seen = _Seen(state_of(part.tensor), _hash(part, originals.get(part.name, {})))
            if seen.state[0] >= 0:
                _seen.setdefault(part.owner, {})[part.attribute] = seen
        found[part.name] = seen.pieces
        report.add(part.tensor.nbytes)
    return found


def believe(parts: list[Part], pieces: Mapping[str, Tensor]) -> None:
    """Take over hashes (n, 32) that are known of tensors as they are now, by their names."""
    for part in parts:
        if part.name in pieces and len(pieces[part.name]) == part.count:
            _seen.setdefault(part.owner, {})[part.attribute] = _Seen(state_of(part.tensor), pieces[part.name])


@contextmanager
def originals_kept(layer: MoELayer) -> Iterator[None]:
    """The base stays the same while the block changes down projections whose originals it keeps."""
    seen = _seen.get(layer.experts, {}).get("down_proj")
    same = seen is not None and seen.state == state_of(layer.stored)
    try:
        yield
    finally:
        if seen is not None and same:
            seen.state = state_of(layer.stored)


def state_of(tensor: Tensor) -> State:
    """The state of a tensor as it is now. The count is -1 for a tensor that torch keeps none of."""
    count = -1 if tensor.is_inference() else tensor._version
    return count, tensor.dtype, 0 if tensor.is_meta else tensor.data_ptr()


def _hash(part: Part, originals: Mapping[int, Tensor]) -> Tensor:
    with align_module_device(part.owner), torch.no_grad():
        tensor = part.tensor.detach()
        if tensor.is_meta:
            raise ModelError(f"{part.path} has no data: load the model's weights first")
        return hash_pieces(_pieces(part, tensor, originals))[part.name]


def _pieces(part: Part, tensor: Tensor, originals: Mapping[int, Tensor]) -> Iterator[Pieces]:
    values = part.oriented(tensor) if part.stacked else runs(tensor)
    for number, value in enumerate(values):
        yield Pieces(part.name, number, value.nbytes, partial(_on_cpu, originals.get(number, value)))


def _on_cpu(value: Tensor) -> tuple[Tensor]:
    return (value.cpu(),)

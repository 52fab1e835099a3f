"""What a patch costs: its file, what it changes, and what serving it takes."""

from __future__ import annotations

from dataclasses import dataclass

from moe_patch.patch import Patch


@dataclass(frozen=True, slots=True)
class Cost:
    """The price of one patch. Merged into a checkpoint, it costs nothing to serve."""

    file: int | None  # bytes; None if it has not been written
    seconds: float | None  # that the build took; None if that is not known
    layers: tuple[int, ...]  # that it changes; none if it changes prompts alone
    experts: int  # that it changes
    rank: int | None  # that an adapter needs so that nothing is lost; None if it changes no weight
    memory: int  # bytes that are held beside the weights where it is not merged, in fp32


def cost_of(patch: Patch, seconds: float | None, size: int | None) -> Cost:
    """What a patch costs.

    Args:
        patch: the patch.
        seconds: that its build took.
        size: of its file in bytes.
    """
    deltas = patch.layers.values()
    parts = [*patch.bypass.values()] if patch.kind == "bypass" else []
    parts += [tensor for delta in deltas for tensor in (delta.left, delta.rows.value)]
    parts += [delta.dense.value for delta in deltas if delta.dense is not None]
    return Cost(
        file=size,
        seconds=seconds,
        layers=tuple(sorted(patch.layers or patch.base.experts)),
        experts=sum(len(delta.experts()) for delta in deltas),
        rank=max((delta.rank(expert) for delta in deltas for expert in delta.experts()), default=None),
        memory=sum(tensor.nbytes for tensor in parts),
    )

"""One patch that equals a stack.

`add` concatenates the patches' deltas. This is exactly what applying all of them does. `solve` solves one
ridge problem for all their facts in each layer. This is what building them together would have given there,
from the same keys and residuals. It removes the interference between patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from pydantic import JsonValue

from moe_patch.data.schemas import common_schema
from moe_patch.errors import StackError
from moe_patch.patch import Fingerprint, LayerDelta, Patch
from moe_patch.patch.dense import add_dense
from moe_patch.patch.rows import Rows, concatenate_rows
from moe_patch.solve.algebra import solve_jointly
from moe_patch.stack.drop import drop_facts
from moe_patch.stack.foundation import KEY
from moe_patch.stack.layers import joint_share
from moe_patch.stack.lockfile import Combine
from moe_patch.stack.members import Stacked
from moe_patch.stack.overlap import find_overlaps, superseded_facts, with_unique_ids


@dataclass(frozen=True, slots=True, eq=False)
class Combined:
    """A patch that equals a stack, and notes for the user on how it was made."""

    patch: Patch
    notes: tuple[str, ...]


def combine_patches(stacked: Sequence[Stacked], how: Combine) -> Combined:
    """Combine the patches of a stack, the lowest first, into one. No model and no data are needed.

    If two patches answer one prompt about one subject, the later one wins: the earlier fact is dropped from
    its patch. Facts keep their order. If two facts share an id, the later one gets the number of its patch.

    Raises:
        StackError: there is no patch, or one is not of kind "delta".
        PatchError: a patch lacks what solving again needs.
    """
    require_deltas(stacked)
    notes = [f"{overlap}; {overlap.later} counts" for overlap in find_overlaps(stacked)]
    members = []
    for member, gone in zip(stacked, superseded_facts(stacked), strict=True):
        if gone and len(gone) == len(member.patch.facts):
            notes.append(f"nothing is left of {member.name}: later patches answer all its facts")
        else:
            members.append(replace(member, patch=drop_facts(member.patch, gone)) if gone else member)
    facts, renaming = with_unique_ids([(fact, member) for member in members for fact in member.patch.facts])
    patches = [member.patch for member in members]
    base = _base(patches)
    join = _solve_jointly if how == "solve" else _stack_deltas
    layers = sorted(base.experts)
    patch = Patch(
        kind="delta",
        method="stack",
        hyperparameters=_shared(patches) | {"combine": how, "layers": list(layers)},
        base=base,
        facts=tuple(facts),
        results=_results(patches),
        layers={layer: join(_with_layer(patches, layer, base), layer) for layer in layers},
        parents=tuple(member.patch.hash for member in stacked),
        schema=common_schema(patch.schema for patch in patches),
    )
    return Combined(patch, tuple(notes + renaming))


def combine_deltas(stacked: Sequence[Stacked], how: Combine) -> Combined | None:
    """Combine the delta patches of a stack; None if all its patches are bypasses.

    Raises:
        PatchError: a patch lacks what solving again needs.
    """
    deltas = [member for member in stacked if member.patch.kind == "delta"]
    return combine_patches(deltas, how) if deltas else None


def _solve_jointly(patches: Sequence[Patch], layer: int) -> LayerDelta:
    """The joint solution of one layer.

    Its lambda is the mean of the patches' own, weighted by their numbers of facts. If all were built with one
    absolute lambda, the mean is that lambda. If all were built with one multiple of the mean diagonal, the
    mean is the same multiple of the joint mean diagonal. Building them together would have used the same.
    """
    parts = [joint_share(patch, layer) for patch in patches]
    ridge = _mean([(share.ridge, share.rows.num_facts if len(share.rows.value) else 0) for share in parts])
    left, rows = solve_jointly([(share.rows, share.residual) for share in parts], ridge)
    residual = torch.cat([share.residual for share in parts])
    return LayerDelta.from_solution(left, rows, residual=residual, ridge=ridge)


def _stack_deltas(patches: Sequence[Patch], layer: int) -> LayerDelta:
    """The deltas of one layer, concatenated."""
    deltas = [patch.layers[layer] for patch in patches]
    residuals = [delta.residual for delta in deltas if delta.residual is not None]
    solvable = len(residuals) == len(deltas)
    known = all(
        delta.fact_rows.num_facts == len(patch.facts) for patch, delta in zip(patches, deltas, strict=True)
    )
    own_beside = known and not all(delta.shares_rows for delta in deltas)
    return LayerDelta.from_solution(
        torch.cat([delta.left for delta in deltas]),
        reduce(concatenate_rows, (delta.rows for delta in deltas)),
        fact_rows=reduce(concatenate_rows, (delta.fact_rows for delta in deltas)) if own_beside else None,
        residual=torch.cat(residuals) if solvable else None,
        ridge=_mean([(delta.ridge, len(delta.left) if len(delta.rows.value) else 0) for delta in deltas]),
        dense=reduce(add_dense, (delta.dense for delta in deltas)),
    )


def require_deltas(stacked: Sequence[Stacked]) -> None:
    """Check that there are patches, all of kind "delta".

    Raises:
        StackError: there is no patch, or one is of another kind.
    """
    if not stacked:
        raise StackError("no patch of the stack is enabled: there is nothing to combine")
    for member in stacked:
        if member.patch.kind != "delta":
            adds = "modules beside the experts" if member.patch.kind == "bypass" else "facts to prompts"
            raise StackError(
                f"{member.name} is of kind {member.patch.kind}: it adds {adds}, which a delta cannot "
                "express. Disable it to combine the others"
            )


def _with_layer(patches: Sequence[Patch], layer: int, base: Fingerprint) -> list[Patch]:
    """The patches; those that do not edit the layer get an empty edit of it."""
    _, d_model, d_key = base.shapes[layer]

    def without_edit(patch: Patch) -> LayerDelta:
        facts, none = len(patch.facts), torch.zeros(0, dtype=torch.int64)
        nothing = torch.zeros(facts, d_model)  # (T, d_m)
        rows = Rows(torch.zeros(0, d_key), none, none, facts)
        return LayerDelta.from_solution(nothing, rows, residual=nothing, ridge=0.0)

    return [
        patch
        if layer in patch.layers
        else replace(patch, layers={**patch.layers, layer: without_edit(patch)})
        for patch in patches
    ]


def _base(patches: Sequence[Patch]) -> Fingerprint:
    """The base that all patches share, with the edited layers of all of them."""
    experts: dict[int, str] = {}
    shapes: dict[int, tuple[int, int, int]] = {}
    for patch in patches:
        experts |= patch.base.experts
        shapes |= patch.base.shapes
    return replace(patches[0].base, experts=experts, shapes=shapes)


def _shared(patches: Sequence[Patch]) -> dict[str, JsonValue]:
    """The hyper-parameters that all patches have in common, except what they were built on."""
    first, *others = (patch.hyperparameters for patch in patches)
    return {
        name: value
        for name, value in first.items()
        if name != KEY and all(name in other and other[name] == value for other in others)
    }


def _results(patches: Sequence[Patch]) -> tuple[dict[str, JsonValue], ...]:
    """The build results of each fact; empty if no patch has any."""
    if not any(patch.results for patch in patches):
        return ()
    return tuple(result for patch in patches for result in patch.results or ({},) * len(patch.facts))


def _mean(weighted: Sequence[tuple[float, int]]) -> float:
    """The weighted mean of values; the largest value if all weights are zero."""
    total = sum(weight for _, weight in weighted)
    if not total:
        return max(value for value, _ in weighted)
    return sum(value * weight for value, weight in weighted) / total

"""One layer of a patch as a linear system that can be solved again, with fewer facts or together with others.

A layer's left factor is A = (S + lambda I)^-1 R for a system S (T, T) that the patch's own rows give:

* Where the patch holds its facts' own rows Psi, S is their kernel, and R the residual in the file.
* Where it was built on a stack, rows of that stack's facts stand in front, and were asked to add nothing. The
  residual in the file counts from the bare base, so R comes from A: R = (S + lambda I) A.
* Where a method spreads each fact over rows B of its own making (MoTE), S = sum_j Psi_j^T B_j, which there is
  the Gram matrix of the compressed keys. Again R comes from A, and has what the method had made of it.
* Where a method solves at one layer only and spreads the solution, S is that layer's, everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moe_patch.errors import PatchError
from moe_patch.patch import LayerDelta, Patch
from moe_patch.patch.rows import Rows, select_rows
from moe_patch.solve.algebra import edit_kernel
from moe_patch.stack.foundation import foundation_of


@dataclass(frozen=True, slots=True, eq=False)
class LayerSystem:
    """What a layer solved: (matrix + ridge I) A = wanted, protected facts first."""

    matrix: Tensor  # (P + T, P + T) fp64
    wanted: Tensor  # (P + T, d_m) fp64
    ridge: float
    protected: int  # P


@dataclass(frozen=True, slots=True, eq=False)
class JointShare:
    """A patch's share of a joint problem in the space of the facts' own rows."""

    rows: Rows  # of T facts
    residual: Tensor  # (T, d_m) fp32, counted from the bare base
    ridge: float  # lambda as these facts alone would have it


def fact_rows(patch: Patch, layer: int) -> Rows:
    """The facts' own rows g k~ at a layer; PatchError where the patch does not say whose its rows are."""
    rows = patch.layers[layer].fact_rows
    if rows.num_facts != len(patch.facts):
        raise PatchError(
            f"layer {layer} has {rows.num_facts} left factors for {len(patch.facts)} facts, and does not "
            "hold their own rows: what it does to a fact cannot be told from the file"
        )
    return rows


def holds_own_rows(delta: LayerDelta) -> bool:
    """Whether the delta's rows are its facts' own, whatever left factor goes with each."""
    rows, own = delta.rows, delta.fact_rows
    return delta.shares_rows or (torch.equal(own.expert, rows.expert) and torch.equal(own.value, rows.value))


def layer_system(patch: Patch, layer: int) -> LayerSystem:
    """What the layer solved, or what the layer solved that its left factors come from.

    Raises:
        PatchError: the patch does not hold enough to tell.
    """
    delta = patch.layers[layer]
    residual, own = _asked(delta, layer), fact_rows(patch, layer)
    protected = foundation_of(patch).protects(layer)
    at = solved_at(patch, layer)
    if holds_own_rows(delta) and at == layer:
        return LayerSystem(edit_kernel(own), residual.double(), delta.ridge, 0)
    if len(delta.left) != protected + own.num_facts:
        raise PatchError(
            f"layer {layer} has {len(delta.left)} left factors for {own.num_facts} facts, and rows that are "
            "not theirs: it cannot be solved again. Build the patch again from the facts that are wanted"
        )
    if at == layer:
        rows = delta.rows
        if protected and not _same(_beyond(rows, protected), own):
            raise PatchError(
                f"layer {layer} was built on a stack, with rows that are not the facts' own, and those of "
                "the stack's facts are not here: it cannot be solved again. Build the patch again instead"
            )
        matrix = edit_kernel(rows if protected else own, rows)
    else:
        matrix = layer_system(patch, at).matrix
    left = delta.left.double()  # (P + T, d_m)
    return LayerSystem(matrix, matrix @ left + delta.ridge * left, delta.ridge, protected)


def joint_share(patch: Patch, layer: int) -> JointShare:
    """The patch's share of a joint problem.

    Raises:
        PatchError: the patch does not hold what solving again needs.
    """
    delta = patch.layers[layer]
    residual, own, ridge = _asked(delta, layer), fact_rows(patch, layer), delta.ridge
    if not holds_own_rows(delta):  # lambda in the unit of the facts' own kernel
        protected = foundation_of(patch).protects(layer)
        solved = (
            edit_kernel(own, _beyond(delta.rows, protected))
            if protected
            else layer_system(patch, layer).matrix
        )
        ridge *= _mean_diagonal(edit_kernel(own)) / _mean_diagonal(solved)
    return JointShare(own, residual, ridge)


def solved_at(patch: Patch, layer: int) -> int:
    """The layer whose system gave this layer its left factors; PatchError if the patch does not edit it."""
    at = patch.hyperparameters.get("solved_at", layer)
    if not isinstance(at, int) or at not in patch.layers:
        raise PatchError(f"hyperparameters.solved_at: expected a layer that the patch edits, found {at!r}")
    return at


def ridge_shrinkage(patch: Patch, matrix: Tensor, facts: Tensor) -> float:
    """By what lambda changes when only some of a system's facts (n,) are left.

    A lambda that was given as a multiple of the mean diagonal follows it; an absolute one stays.
    """
    if not patch.hyperparameters.get("ridge_relative"):
        return 1.0
    kept = _mean_diagonal(matrix[facts][:, facts])
    return kept / _mean_diagonal(matrix) if kept > 0.0 else 1.0  # no fact is left here: any lambda will do


def _beyond(rows: Rows, protected: int) -> Rows:
    """The rows of all facts but the first ones."""
    return select_rows(rows, torch.arange(protected, rows.num_facts))


def _same(first: Rows, second: Rows) -> bool:
    return (
        torch.equal(first.expert, second.expert)
        and torch.equal(first.fact, second.fact)
        and torch.equal(first.value, second.value)
    )


def _asked(delta: LayerDelta, layer: int) -> Tensor:
    if delta.residual is None:
        raise PatchError(f"layer {layer} lacks the facts' residuals, which solving again needs")
    return delta.residual


def _mean_diagonal(matrix: Tensor) -> float:
    return float(matrix.diagonal().mean())

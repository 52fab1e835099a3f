"""One layer of a patch as a linear system that can be solved again, with fewer facts or with more.

A layer's left factor is A = (S + lambda I)^-1 R. The patch's own rows give the system S (T, T):

* If the patch holds its facts' own rows Psi, S is their kernel, and R is the residual in the file.
* If it was built on a stack, rows for the stack's facts come first, with zero as their residual. The residual
  in the file is relative to the bare base, so R is recovered from A: R = (S + lambda I) A.
* If the method replaces the facts' rows by rows B of its own (MoTE), S = sum_j Psi_j^T B_j. This is the Gram
  matrix of the compressed keys. R is again recovered from A, as the method had changed it.
* If the method solves one layer and spreads the solution, all layers use the system of that layer.
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
    """The system that a layer solved: (matrix + ridge I) A = wanted. Protected facts come first."""

    matrix: Tensor  # (P + T, P + T) fp64
    wanted: Tensor  # (P + T, d_m) fp64
    ridge: float
    protected: int  # P, the number of protected facts


@dataclass(frozen=True, slots=True, eq=False)
class JointShare:
    """One patch's part of a joint problem, in terms of the facts' own rows."""

    rows: Rows  # of T facts
    residual: Tensor  # (T, d_m) fp32, relative to the bare base
    ridge: float  # lambda for these facts alone


def fact_rows(patch: Patch, layer: int) -> Rows:
    """The facts' own rows g k~ at a layer.

    Raises:
        PatchError: the patch does not say which fact each row belongs to.
    """
    rows = patch.layers[layer].fact_rows
    if rows.num_facts != len(patch.facts):
        raise PatchError(
            f"layer {layer} has {rows.num_facts} left factors for {len(patch.facts)} facts, and does not "
            "hold their own rows: the file does not show what it does to each fact"
        )
    return rows


def holds_own_rows(delta: LayerDelta) -> bool:
    """Whether the delta is made of its facts' own rows, whichever left factor each row uses."""
    rows, own = delta.rows, delta.fact_rows
    return delta.shares_rows or (torch.equal(own.expert, rows.expert) and torch.equal(own.value, rows.value))


def layer_system(patch: Patch, layer: int) -> LayerSystem:
    """The system that gave this layer its left factors: its own, or that of the one layer that was solved.

    Raises:
        PatchError: the patch lacks what is needed to set the system up.
    """
    delta = patch.layers[layer]
    residual, own = _asked(delta, layer), fact_rows(patch, layer)
    protected = foundation_of(patch).protects(layer)
    at = solved_at(patch, layer)
    if holds_own_rows(delta) and at == layer:
        return LayerSystem(edit_kernel(own), residual.double(), delta.ridge, 0)
    if len(delta.left) != protected + own.num_facts:
        raise PatchError(
            f"layer {layer} has {len(delta.left)} left factors for {own.num_facts} facts, and rows of "
            "another kind: it cannot be solved again. Build the patch again from the facts you want"
        )
    if at == layer:
        rows = delta.rows
        if protected and not _same(_beyond(rows, protected), own):
            raise PatchError(
                f"layer {layer} was built on a stack, with rows that are not the facts' own, and the "
                "file lacks those of the stack's facts: it cannot be solved again. Build it again instead"
            )
        matrix = edit_kernel(rows if protected else own, rows)
    else:
        matrix = layer_system(patch, at).matrix
    left = delta.left.double()  # (P + T, d_m)
    return LayerSystem(matrix, matrix @ left + delta.ridge * left, delta.ridge, protected)


def joint_share(patch: Patch, layer: int) -> JointShare:
    """One patch's part of a joint problem at a layer.

    Raises:
        PatchError: the patch lacks what solving again needs.
    """
    delta = patch.layers[layer]
    residual, own, ridge = _asked(delta, layer), fact_rows(patch, layer), delta.ridge
    if not holds_own_rows(delta):  # convert lambda to the scale of the facts' own kernel
        protected = foundation_of(patch).protects(layer)
        solved = (
            edit_kernel(own, _beyond(delta.rows, protected))
            if protected
            else layer_system(patch, layer).matrix
        )
        ridge *= _mean_diagonal(edit_kernel(own)) / _mean_diagonal(solved)
    return JointShare(own, residual, ridge)


def solved_at(patch: Patch, layer: int) -> int:
    """The layer whose system gave this layer its left factors.

    Raises:
        PatchError: the patch names a layer that it does not edit.
    """
    at = patch.hyperparameters.get("solved_at", layer)
    if not isinstance(at, int) or at not in patch.layers:
        raise PatchError(f"hyperparameters.solved_at: expected a layer that the patch edits, found {at!r}")
    return at


def ridge_shrinkage(patch: Patch, matrix: Tensor, facts: Tensor) -> float:
    """The factor by which lambda changes when only the facts `facts` (n,) of a system are left.

    A lambda that was set as a multiple of the mean diagonal changes with it. An absolute one stays.
    """
    if not patch.hyperparameters.get("ridge_relative"):
        return 1.0
    kept = _mean_diagonal(matrix[facts][:, facts])
    return kept / _mean_diagonal(matrix) if kept > 0.0 else 1.0  # if no fact is left, any lambda will do


def _beyond(rows: Rows, protected: int) -> Rows:
    """The rows of all facts except the first `protected` ones."""
    return select_rows(rows, torch.arange(protected, rows.num_facts))


def _same(first: Rows, second: Rows) -> bool:
    return (
        torch.equal(first.expert, second.expert)
        and torch.equal(first.fact, second.fact)
        and torch.equal(first.value, second.value)
    )


def _asked(delta: LayerDelta, layer: int) -> Tensor:
    if delta.dense is not None:
        raise PatchError(
            f"layer {layer} holds dense changes, which were trained on all facts together: no fact can be "
            "taken out of them, nor solved again with others. Build the patch again from the facts you want, "
            "or combine it with others by adding"
        )
    if delta.residual is None:
        raise PatchError(f"layer {layer} lacks the facts' residuals, which solving again needs")
    return delta.residual


def _mean_diagonal(matrix: Tensor) -> float:
    return float(matrix.diagonal().mean())

"""The closed-form algebra of expert edits: kernels, ridge solves, joint solves and cross-talk.

Everything here is a pure function of tensors. For one layer, minimise over the expert deltas D_j

    sum_t || r_t - sum_j g_tj D_j k~_tj ||^2  +  lambda * sum_j || D_j ||_F^2

(MoEEdit's objective; MEMIT, arXiv 2210.07229, section 4.2 has its dense form). By the push-through
identity the minimiser is

    A = (Kmat + lambda I)^-1 R,   D_j = A^T Psi_j^T,   Kmat = sum_j Psi_j^T Psi_j

with one row of R and of A per fact. So a layer's edit is one left factor A (T, d_m) shared by all experts
and, for each expert, the few rows g k~ of the facts that reach it. `Rows` holds those rows. Only
`expert_delta` builds a dense delta, and only of one expert.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from moe_patch.errors import SolveError
from moe_patch.patch.rows import Rows, concatenate_rows, one_left_per_row


def edit_kernel(rows: Rows, other: Rows | None = None) -> Tensor:
    """The edit kernel sum_j Psi_j^T Psi'_j between the facts of `rows` and those of `other` (default `rows`).

    Returns:
        (T, T') in fp64. An entry is zero if its two facts share no expert.

    Raises:
        SolveError: the keys of `rows` and `other` differ in width.
    """
    other = rows if other is None else other
    if rows.value.shape[1] != other.value.shape[1]:
        raise SolveError(
            f"keys of width {rows.value.shape[1]} and {other.value.shape[1]} belong to different layers"
        )
    total = rows.value.new_zeros((rows.num_facts, other.num_facts), dtype=torch.float64)  # (T, T')
    for expert, block in rows.blocks():
        value, fact = rows.value[block].double(), rows.fact[block]
        other_value, other_fact = (value, fact) if other is rows else other.of(expert)
        if len(other_fact):
            total[fact[:, None], other_fact[None, :]] += value @ other_value.double().T  # (n_e, n'_e)
    return total


def ridge_value(kernel: Tensor, ridge: float, relative: bool) -> float:
    """The absolute lambda: `ridge` itself, or `ridge` times the mean diagonal of the kernel (T, T).

    Raises:
        SolveError: the result is not positive, because `ridge` is not, or because every key was projected
            away.
    """
    scale = float(kernel.diagonal().mean()) if relative and len(kernel) else 1.0
    if not ridge * scale > 0.0:
        raise SolveError(
            f"lambda is {ridge} times {scale}, but must be positive: give a positive lambda; if the kernel "
            "is zero, weaken the projection, which removed every key"
        )
    return ridge * scale


def ridge_solve(kernel: Tensor, residual: Tensor, ridge: float) -> Tensor:
    """A = (K + lambda I)^-1 R by Cholesky in fp64: the left factor of the exact minimiser, one row per fact.

    Args:
        kernel: (T, T), symmetric positive semi-definite, from `edit_kernel`.
        residual: (T, d_m), what the layer should add for each fact.
        ridge: absolute lambda.

    Returns:
        (T, d_m) in the residual's dtype.

    Raises:
        SolveError: shapes do not fit, or K + lambda I is not positive definite.
    """
    if kernel.shape != (len(residual), len(residual)):
        raise SolveError(
            f"a kernel {tuple(kernel.shape)} does not fit {len(residual)} residuals: one row per fact"
        )
    left: Tensor = torch.cholesky_solve(residual.double(), _shifted_cholesky(kernel.double(), ridge))
    return left.to(residual.dtype)


def _shifted_cholesky(gram: Tensor, ridge: float) -> Tensor:
    """The lower Cholesky factor of gram (n, n) + ridge I."""
    shifted = gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)  # (n, n)
    factor: Tensor
    factor, failed_at = torch.linalg.cholesky_ex(shifted)
    if int(failed_at) or not bool(torch.isfinite(factor).all()):
        raise SolveError(
            f"the kernel of {len(gram)} facts plus lambda {ridge:g} is not positive definite: raise lambda, "
            "and look for non-finite keys"
        )
    return factor


def solve_jointly(parts: Sequence[tuple[Rows, Tensor]], ridge: float) -> tuple[Tensor, Rows]:
    """The edit that one build of all parts would give, from the rows and residual (T_i, d_m) of each part.

    Returns:
        left (sum T_i, d_m) and the joined rows, with the facts numbered part after part.

    Raises:
        SolveError: no parts, shapes that do not fit, or a system that is not positive definite.
    """
    if not parts:
        raise SolveError("nothing to solve: give at least one set of rows with its residuals")
    joined = reduce(concatenate_rows, (rows for rows, _ in parts))
    residual = torch.cat([residual for _, residual in parts])  # (sum T_i, d_m)
    return ridge_solve(edit_kernel(joined), residual, ridge), joined


def expert_delta(left: Tensor, rows: Rows, expert: int) -> Tensor:
    """The dense delta (d_m, d_k) of one expert, in left's dtype; zero if no row reaches it."""
    value, fact = rows.of(expert)
    return left[fact].T @ value.to(left.dtype)


def edit_response(left: Tensor, rows: Rows, probe: Rows) -> Tensor:
    """What the edit (left, rows) adds to the layer's output for the probe's facts.

    Returns:
        (T', d_m) in fp64: row t is sum_j g_tj D_j k~_tj.
    """
    return edit_kernel(probe, rows) @ left.double()


def expert_penalties(left: Tensor, rows: Rows) -> list[float]:
    """||D_j||_F^2 of each expert that a row reaches, experts ascending, without building a dense delta."""
    found = []
    for _, block in rows.blocks():
        value, factor = rows.value[block].double(), left[rows.fact[block]].double()  # (n_e, d_k), (n_e, d_m)
        square = float(((value @ value.T) * (factor @ factor.T)).sum())
        found.append(max(0.0, square))  # rounding can take it below zero
    return found


def edit_penalty(left: Tensor, rows: Rows) -> float:
    """The sum over experts of ||D_j||_F^2."""
    return sum(expert_penalties(left, rows))


def edit_objective(
    left: Tensor, rows: Rows, residual: Tensor, ridge: float, keys: Rows | None = None
) -> float:
    """The objective in this module's docstring, for the edit (left, rows).

    Args:
        left: (R, d_m), indexed by `rows.fact`.
        residual: (T, d_m).
        ridge: absolute lambda.
        keys: the facts' own rows, if they differ from `rows`, as when every row has its own left factor.
    """
    missing = residual.double() - edit_response(left, rows, rows if keys is None else keys)  # (T, d_m)
    return float(missing.square().sum()) + ridge * edit_penalty(left, rows)


@dataclass(frozen=True, slots=True, eq=False)
class Interference:
    """How far one edit changes what another one does for its own T facts, computed without the model."""

    crosstalk: Tensor  # (T, d_m) fp64: what the other edit adds at this layer
    share: Tensor  # (T,) |crosstalk| / |own edit|: 0 is undisturbed, 1 is as large as the edit itself
    along: Tensor  # (T,) crosstalk along the own edit, as a share: -1 undoes it, 0 is neutral, 1 doubles it


def compare_outputs(own: Tensor, crosstalk: Tensor) -> Interference:
    """The interference with an edit that adds `own` (T, d_m) of another that adds `crosstalk` (T, d_m)."""
    smallest = torch.finfo(torch.float64).tiny  # if the own edit is zero, a share is 0 or huge, never NaN
    length = own.norm(dim=1).clamp_min(smallest)  # (T,)
    along = torch.linalg.vecdot(crosstalk, own / length[:, None]) / length  # (T,)
    return Interference(crosstalk, crosstalk.norm(dim=1) / length, along)


@dataclass(frozen=True, slots=True, eq=False)
class BlockDescent:
    """The result of `block_coordinate_descent`."""

    left: Tensor  # (nnz, d_m) in the residual's dtype, for use with `one_left_per_row(rows)`
    objectives: tuple[float, ...]  # before the first pass, then after each pass


def block_coordinate_descent(
    rows: Rows, residual: Tensor, ridge: float, *, passes: int, generator: torch.Generator
) -> BlockDescent:
    """MoEEdit's randomized block coordinate descent: one expert at a time, in a new random order each pass.

    The published update of a block solves the expert's own normal equations, d_k x d_k:

        D_j <- (R - sum_{i != j} D_i Psi_i) Psi_j^T (Psi_j Psi_j^T + lambda I)^-1

    By the push-through identity, the right factor is (Psi_j^T Psi_j + lambda I)^-1 Psi_j^T, whose system is
    n_e x n_e for an expert that n_e facts reach. Each iterate is therefore A_j^T Psi_j^T, with one row of A_j
    per row of the expert. These are exactly the published iterates, at a fraction of their cost. The delta of
    an expert that no fact reaches stays zero.

    Args:
        rows: the facts' own rows.
        residual: (T, d_m).
        ridge: absolute lambda, positive.
        passes: sweeps over all experts.
        generator: draws the order of the experts; the same seed gives the same iterates.

    Raises:
        SolveError: shapes do not fit, or an expert's system is not positive definite.
    """
    if len(residual) != rows.num_facts:
        raise SolveError(f"{len(residual)} residuals do not fit rows of {rows.num_facts} facts")
    own = one_left_per_row(rows)
    left = residual.new_zeros((len(rows.value), residual.shape[1]), dtype=torch.float64)  # (nnz, d_m)
    missing = residual.double().clone()  # (T, d_m): R - sum_i D_i Psi_i, kept up to date
    blocks = [_factored_block(rows, block, ridge) for _, block in rows.blocks()]
    objectives = [edit_objective(left, own, residual, ridge, keys=rows)]
    for _ in range(passes):
        for index in torch.randperm(len(blocks), generator=generator).tolist():
            block, gram, factor = blocks[index]
            fact = rows.fact[block]
            wanted = missing[fact] + gram @ left[block]  # (n_e, d_m): R without the other experts' share
            updated = torch.cholesky_solve(wanted, factor)
            missing.index_add_(0, fact, gram @ (left[block] - updated))
            left[block] = updated
        objectives.append(edit_objective(left, own, residual, ridge, keys=rows))
    return BlockDescent(left.to(residual.dtype), tuple(objectives))


def _factored_block(rows: Rows, block: slice, ridge: float) -> tuple[slice, Tensor, Tensor]:
    """One expert's slice of rows, its gram (n_e, n_e), and the Cholesky factor of gram + ridge I."""
    value = rows.value[block].double()
    gram = value @ value.T
    return block, gram, _shifted_cholesky(gram, ridge)

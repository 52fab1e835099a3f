"""Two ways to solve a layer's edit that cost more or give less than the kernel does, to compare with it."""

from __future__ import annotations

import torch
from torch import Tensor

from moe_patch.errors import SolveError
from moe_patch.patch.rows import Rows

MOST_UNKNOWNS = 16_384
"""The widest system that is set up: its matrix and factor take 4 GiB."""


def solve_stacked(rows: Rows, residual: Tensor, ridge: float) -> Tensor:
    """The left factors of the exact edit, by the dense normal equations of all experts' keys side by side.

    It is a dense editor's closed form with the experts' down projections as one wide matrix: with the facts'
    stacked rows Psi (E d_k, T), D = R^T Psi^T (Psi Psi^T + lambda I)^-1. Experts that no fact reaches are
    left out, since their part is zero. Memory grows with the square of the experts reached, and time with the
    cube.

    Args:
        rows: the facts' own rows.
        residual: (T, d_m).
        ridge: absolute lambda, positive.

    Returns:
        A (T, d_m) in the residual's dtype, with D_j = A^T Psi_j^T.

    Raises:
        SolveError: the experts' keys together are wider than `MOST_UNKNOWNS`, or the system is not positive
            definite.
    """
    reached, width = rows.experts(), rows.value.shape[1]
    unknowns = len(reached) * width
    if unknowns > MOST_UNKNOWNS:
        raise SolveError(
            f"the naive closed form of {len(reached)} experts with keys of width {width} has {unknowns} "
            f"unknowns, and a matrix of {8 * unknowns**2 / 2**30:.0f} GiB; it is set up for at most "
            f"{MOST_UNKNOWNS}: take solver exact, which gives the same edit"
        )
    stacked = torch.zeros(rows.num_facts, unknowns, dtype=torch.float64)  # (T, E' * d_k)
    for number, (_, block) in enumerate(rows.blocks()):
        columns = slice(number * width, (number + 1) * width)
        stacked[rows.fact[block], columns] = rows.value[block].double()
    normal = stacked.T @ stacked + ridge * torch.eye(unknowns, dtype=torch.float64)  # (E' d_k, E' d_k)
    factor, failed_at = torch.linalg.cholesky_ex(normal)
    if int(failed_at) or not bool(torch.isfinite(factor).all()):
        raise SolveError(
            f"the normal equations of {len(reached)} experts plus lambda {ridge:g} are not positive "
            "definite: raise lambda, and look for non-finite keys"
        )
    wide = residual.double()
    delta = torch.cholesky_solve(stacked.T @ wide, factor)  # (E' * d_k, d_m), all experts' deltas transposed
    left: Tensor = (wide - stacked @ delta) / ridge  # of the same delta, as a combination of rows
    return left.to(residual.dtype)


def solve_each_expert(rows: Rows, residual: Tensor, ridge: float) -> Tensor:
    """Left factors of each row, with every expert solved alone for the whole residual of its facts.

    D_j minimises sum_t || r_t - g_tj D_j k_tj ||^2 + lambda || D_j ||_F^2 over the facts that reach expert j.
    Nothing says that the experts' outputs are summed, so together they add too much.

    Args:
        rows: the facts' own rows.
        residual: (T, d_m).
        ridge: absolute lambda, positive.

    Returns:
        (nnz, d_m) in the residual's dtype, for use with `one_left_per_row(rows)`.

    Raises:
        SolveError: an expert's system is not positive definite.
    """
    left = residual.new_empty((len(rows.value), residual.shape[1]))  # (nnz, d_m)
    for expert, block in rows.blocks():
        value = rows.value[block].double()  # (n_e, d_k)
        gram = value @ value.T + ridge * torch.eye(len(value), dtype=torch.float64)  # (n_e, n_e)
        factor, failed_at = torch.linalg.cholesky_ex(gram)
        if int(failed_at) or not bool(torch.isfinite(factor).all()):
            raise SolveError(
                f"the kernel of expert {expert} plus lambda {ridge:g} is not positive definite: raise "
                "lambda, and look for non-finite keys"
            )
        solved = torch.cholesky_solve(residual[rows.fact[block]].double(), factor)
        left[block] = solved.to(left.dtype)
    return left

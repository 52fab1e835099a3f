"""Edits in Tucker coordinates: compress the facts, solve one ridge system for the core, expand to rows.

A layer's delta is restricted to the manifold that the factors of its weights span (MoTE, arXiv 2605.16686):

    D_j = U_out (sum_a U_e[j, a] G_a) U_in^T P_j ,   minimise  ||R - U_out G Phi^T||^2 + lambda ||G||^2

Summed over the experts, the rows g k~ of fact t compress to

    phi_t[a, :] = sum_j U_e[j, a] U_in^T (g_tj k~_tj)          one row of Phi, r_e r_in wide

and the minimiser is G = R~^T (Phi Phi^T + lambda I)^-1 Phi with R~ = R U_out. So the edit has one left factor
for each fact, A = (Phi Phi^T + lambda I)^-1 R~, and at every expert one row for each fact, B_j = (sum_a
U_e[j, a] Phi_a) U_in^T P_j. This form is exact: nothing is truncated.

If a mode is whitened, U_in or U_out stands for the recoloured factor; see `moe_patch.solve.whitening`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moe_patch.errors import PatchError
from moe_patch.patch import LayerDelta
from moe_patch.patch.rows import Rows
from moe_patch.solve.algebra import edit_kernel, ridge_solve
from moe_patch.solve.nullspace import NullSpace
from moe_patch.solve.tucker import Factors, Ranks
from moe_patch.solve.whitening import Whitening


@dataclass(frozen=True, slots=True, eq=False)
class Manifold:
    """The Tucker factors of one layer, recoloured, in fp64. Every edit of the layer is built from them."""

    expert: Tensor  # (E, r_e)
    inner: Tensor  # (d_k, r_in): C_in^(-1/2) U_in, to and from keys
    read: Tensor  # (d_m, r_out): C_out^(-1/2) U_out, from outputs
    write: Tensor  # (d_m, r_out): C_out^(1/2) U_out, to outputs

    @classmethod
    def of(cls, factors: Factors, whitening: Whitening) -> Manifold:
        """The manifold in the model's own bases, from factors in whitened bases."""
        inner, out = whitening.inner, whitening.out
        return cls(
            expert=factors.expert,
            inner=factors.inner if inner is None else inner.inverse @ factors.inner,
            read=factors.out if out is None else out.inverse @ factors.out,
            write=factors.out if out is None else out.root @ factors.out,
        )

    @property
    def ranks(self) -> Ranks:
        """(r_e, r_out, r_in)."""
        return self.expert.shape[1], self.read.shape[1], self.inner.shape[1]


def compress_rows(rows: Rows, manifold: Manifold) -> Tensor:
    """Phi (T, r_e, r_in) fp64: the facts' rows g k~ in Tucker coordinates, summed over the experts."""
    r_e, _, r_in = manifold.ranks
    compressed = torch.zeros(rows.num_facts, r_e, r_in, dtype=torch.float64)
    for expert, block in rows.blocks():
        inner = rows.value[block].double() @ manifold.inner  # (n_e, r_in)
        mix = manifold.expert[expert][None, :, None]  # (1, r_e, 1)
        compressed.index_add_(0, rows.fact[block], mix * inner[:, None, :])
    return compressed


def solve_core(compressed: Tensor, residual: Tensor, ridge: float) -> Tensor:
    """A = (Phi Phi^T + lambda I)^-1 R~, solved on the smaller side of the push-through identity.

    Args:
        compressed: Phi, (T, r_e, r_in) fp64.
        residual: R~, (T, r_out) fp64.
        ridge: absolute lambda.

    Returns:
        (T, r_out) fp64; the core is G = A^T Phi.

    Raises:
        SolveError: shapes do not fit, or the system is not positive definite.
    """
    phi = compressed.flatten(1)  # (T, r_e * r_in)
    return _by_facts(phi, residual, ridge) if len(phi) <= phi.shape[1] else _by_core(phi, residual, ridge)


def _by_facts(phi: Tensor, residual: Tensor, ridge: float) -> Tensor:
    return ridge_solve(phi @ phi.T, residual, ridge)


def _by_core(phi: Tensor, residual: Tensor, ridge: float) -> Tensor:
    core = ridge_solve(phi.T @ phi, phi.T @ residual, ridge)  # (r_e * r_in, r_out), G transposed
    return (residual - phi @ core) / ridge


def expand_rows(compressed: Tensor, manifold: Manifold, projection: NullSpace | None) -> Rows:
    """B: every fact's row at every expert of a layer, from compressed keys of this or another layer.

    A row that is within rounding of zero, compared with its fact's largest row, is left out. At full ranks
    these are the rows of experts that the fact does not reach.

    Args:
        compressed: Phi, (T, r_e, r_in) fp64.
        manifold: of the layer that the rows are for.
        projection: the null space of that layer; None leaves the rows as they are.

    Returns:
        up to E * T rows of width d_k, in fp32.
    """
    facts, experts = len(compressed), len(manifold.expert)
    value = torch.empty(experts, facts, len(manifold.inner))  # (E, T, d_k)
    for expert in range(experts):
        inner = torch.tensordot(compressed, manifold.expert[expert], dims=([1], [0]))  # (T, r_in)
        rows = inner @ manifold.inner.T  # (T, d_k)
        value[expert] = rows if projection is None else projection.project(expert, rows)
    size = value.norm(dim=2)  # (E, T)
    expert, fact = (size > torch.finfo(torch.float32).eps * size.amax(0)).nonzero(as_tuple=True)  # (nnz,)
    return Rows(value[expert, fact], expert, fact, facts)


def truncate_delta(delta: LayerDelta, rank: int) -> tuple[LayerDelta, float]:
    """The closest delta whose experts share `rank` left factors, and its relative error in Frobenius norm.

    With A (R, d_m) and B_j (R, d_k), the experts' deltas side by side are A^T [B_1 .. B_E]. The result is the
    truncated singular value decomposition of this matrix. It is computed from the kernel of B, without a
    dense delta.

    Raises:
        PatchError: the delta does not store the facts' own rows, which later removal of a fact would need.
    """
    if delta.shares_rows:
        raise PatchError("only a delta that stores the facts' own rows separately can be truncated")
    if not len(delta.rows.value):
        return delta, 0.0
    basis, triangle = torch.linalg.qr(delta.left.double().T)  # (d_m, p), (p, R)
    values, vectors = torch.linalg.eigh(
        triangle @ edit_kernel(delta.rows) @ triangle.T
    )  # (p,) ascending, (p, p)
    values, kept = values.clamp_min(0.0), vectors[:, max(0, len(values) - rank) :].flip(1)  # (p, rank)
    error = float((values[: max(0, len(values) - rank)].sum() / values.sum()).sqrt()) if values.sum() else 0.0
    truncated = LayerDelta.from_solution(
        (basis @ kept).T,  # (rank, d_m)
        mix_rows(delta.rows, kept.T @ triangle),
        fact_rows=delta.fact_rows,
        residual=delta.residual,
        ridge=delta.ridge,
    )
    return truncated, error


def mix_rows(rows: Rows, mix: Tensor) -> Rows:
    """The rows M B_j of each expert, for `mix` M (n, R) and its rows B_j (R, d_k); a missing row is zero."""
    count = len(mix)
    experts = torch.tensor(rows.experts(), dtype=torch.int64)
    value = torch.cat([mix[:, rows.fact[block]] @ rows.value[block].double() for _, block in rows.blocks()])
    return Rows(value, experts.repeat_interleave(count), torch.arange(count).repeat(len(experts)), count)

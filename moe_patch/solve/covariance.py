"""A penalty on what a delta does to preserved keys, instead of a projection that forbids it.

MEMIT (arXiv 2210.07229, equation 14) weighs new facts against preserved keys by the keys' second moment C.
For the experts j of a layer, each with its own C_j,

    minimise  sum_t || r_t - sum_j g_tj D_j k_tj ||^2  +  lambda sum_j tr(D_j C_j D_j^T)

By the push-through identity, with the facts' rows Psi_j = g k and B_j = C_j^-1 Psi_j, the minimiser is

    A = (sum_j Psi_j^T B_j + lambda I)^-1 R,   D_j = A^T B_j^T

which is exact: for one expert with g = 1 it is MEMIT's R K^T (lambda C + K K^T)^-1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moe_patch.errors import SolveError
from moe_patch.patch.rows import Rows
from moe_patch.solve.moments import Moments
from moe_patch.solve.whitening import EPSILON_SHARE, key_moment


class CovarianceWeighting:
    """Rows weighted by the inverse second moments of one layer's experts; factors are kept as they are used.

    Args:
        moments: of preserved text.
        epsilon: added to each moment's diagonal, as a share of its mean. A moment of fewer tokens than d_k
            has no inverse without it.
        min_tokens: experts with fewer tokens take the moment of all experts' keys together.
    """

    def __init__(self, moments: Moments, *, epsilon: float = EPSILON_SHARE, min_tokens: int = 1) -> None:
        self._moments, self._epsilon, self._least = moments, epsilon, min_tokens
        self._factors: dict[int, Tensor] = {}  # expert -> lower Cholesky factor (d_k, d_k) fp64

    def __call__(self, rows: Rows) -> Rows:
        """B: the rows C_j^-1 g k, in the rows' dtype.

        Raises:
            SolveError: a moment is zero or not finite.
        """
        value = torch.empty_like(rows.value)  # (nnz, d_k)
        for expert, block in rows.blocks():
            solved = torch.cholesky_solve(rows.value[block].double().T, self._factor(expert))  # (d_k, n_e)
            value[block] = solved.T.to(value.dtype)
        return Rows(value, rows.expert, rows.fact, rows.num_facts)

    def _factor(self, expert: int) -> Tensor:
        if expert not in self._factors:
            moment = self._moment(expert)
            scale = self._epsilon * float(moment.diagonal().mean())
            shifted = moment + scale * torch.eye(len(moment), dtype=torch.float64)  # (d_k, d_k)
            factor, failed_at = torch.linalg.cholesky_ex(shifted)
            if int(failed_at) or not bool(torch.isfinite(factor).all()):
                raise SolveError(
                    f"layer {self._moments.layer}, expert {expert}: the second moment of preserved keys has "
                    "no inverse: give more preserved text, or raise epsilon"
                )
            self._factors[expert] = factor
        return self._factors[expert]

    def _moment(self, expert: int) -> Tensor:
        """(d_k, d_k) fp64."""
        seen = int(self._moments.tokens[expert]) >= self._least
        return self._moments.mean(expert) if seen else key_moment(self._moments)

"""UltraEdit's mathematics (arXiv 2505.14679): lifelong normalisation, and one ridge solve a batch.

A module's input k and the loss's gradient g with respect to its output make one feature [k, g] for each
token. Features are normalised by running statistics over all batches so far, and give the value shift

    v = -eta ||k^||^2 g^

The delta of the module is the ridge solution that maps the inputs, not normalised, to the shifts:

    D = V^T K (K^T K + lambda I)^-1 = ((K K^T + lambda I)^-1 V)^T K

with one row of K (n, d_k) and V (n, d_m) for each token; the second form is solved here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moe_patch.solve.algebra import ridge_solve

_SMALLEST = torch.finfo(torch.float32).eps  # added to a deviation, as published


class RunningStatistics:
    """The mean and the variance of features over all batches so far, by coordinate, in fp64."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean = torch.zeros(width, dtype=torch.float64)  # (d,)
        self._squares = torch.zeros(width, dtype=torch.float64)  # (d,) sum of squares around the mean

    def update(self, features: Tensor) -> None:
        """Take in (n, d) features, by the parallel form of Welford's algorithm (Chan et al., 1979)."""
        n = len(features)
        if not n:
            return
        wide = features.double()
        mean, total = wide.mean(0), self.count + n
        shift = mean - self.mean
        self._squares += (wide - mean).square().sum(0) + shift.square() * (self.count * n / total)
        self.mean = self.mean + shift * (n / total)
        self.count = total

    @property
    def deviation(self) -> Tensor:
        """(d,) the standard deviation with n - 1; zero before there are two features."""
        return (self._squares / max(1, self.count - 1)).sqrt()

    def normalise(self, features: Tensor) -> Tensor:
        """(n, d) fp64 features without their mean, in deviations."""
        return (features.double() - self.mean) / (self.deviation + _SMALLEST)


def value_shift(keys: Tensor, gradients: Tensor, statistics: RunningStatistics, rate: float) -> Tensor:
    """V (n, d_m) fp64 from keys (n, d_k) and gradients (n, d_m).

    Args:
        keys: the module's inputs.
        gradients: of the loss, at its outputs.
        statistics: of features [k, g].
        rate: eta.
    """
    normal = statistics.normalise(torch.cat([keys.double(), gradients.double()], dim=1))  # (n, d_k + d_m)
    key, gradient = normal.split([keys.shape[1], gradients.shape[1]], dim=1)
    shift: Tensor = -rate * key.square().sum(1, keepdim=True) * gradient
    return shift


def one_step(keys: Tensor, shift: Tensor, ridge: float) -> Tensor:
    """The left factors (n, d_m) fp64 of D = left^T K, for K (n, d_k) and V (n, d_m).

    Raises:
        SolveError: K K^T + lambda I is not positive definite.
    """
    wide = keys.double()
    return ridge_solve(wide @ wide.T, shift.double(), ridge)

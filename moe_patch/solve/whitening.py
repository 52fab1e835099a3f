"""Bases in which a mode of a layer's down projections has unit second moment, and the way back.

An expert computes y = W k. In whitened bases

    k' = C_in^(-1/2) k,   y' = C_out^(-1/2) y,   W' = C_out^(-1/2) W C_in^(1/2),   y' = W' k'

so a delta D' found there is recoloured as D = C_out^(1/2) D' C_in^(-1/2). The Frobenius norm of D' then
measures the effect on the keys and outputs that occur in text: with `in`, ||D'||^2 = tr(D C_in D^T) is
MEMIT's preservation term (arXiv 2210.07229, equation 8), which makes lambda independent of the keys' scale.

A Tucker decomposition has one factor for each mode, so there is one second moment for each mode:

* `in`, (d_k, d_k): the mean of k k^T over the routed (token, expert) pairs of preserved text, without gates.
* `out`, (d_m, d_m): the mean of y y^T over the same pairs, where y = W_j k is the output of the expert's down
  projection before its bias and gate. It follows from the keys' moments, without another forward pass. Or it
  is the inverse of the mean of g g^T, where g is the gradient of a random loss at the layer's experts (see
  `moe_patch.base.gradients`): ||D'||^2 then measures what a delta does to the model's predictions.

Epsilon, in the square of the moment's own unit, is added to the diagonal of both. Where none is given, it is
a share of the diagonal's mean, so that it means the same on every model.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from moe_patch.errors import StatisticsError
from moe_patch.solve.moments import Moments

EPSILON_SHARE = 1e-5
"""Epsilon as a share of the diagonal's mean, where none is given."""

WhiteningKind = Literal["none", "in", "out", "both"]


class DownProjections(Protocol):
    """What whitening needs of a layer. A base's `MoELayer` satisfies it."""

    @property
    def index(self) -> int:
        """The number of the decoder layer."""

    @property
    def d_model(self) -> int:
        """d_m, the width of outputs."""

    @property
    def device(self) -> torch.device:
        """The device on which the layer runs."""

    def weights(self) -> AbstractContextManager[Tensor]:
        """All down projections (E, d_m, d_k)."""


@dataclass(frozen=True, slots=True, eq=False)
class Root:
    """The symmetric square root of one mode's second moment, and its inverse."""

    root: Tensor  # (d, d) fp64: (C + epsilon I)^(1/2)
    inverse: Tensor  # (d, d) fp64: (C + epsilon I)^(-1/2)


@dataclass(frozen=True, slots=True, eq=False)
class Whitening:
    """The whitened bases of one layer."""

    inner: Root | None = None  # of keys, d_k; None: not whitened
    out: Root | None = None  # of outputs, d_m; None: not whitened


NOT_WHITENED = Whitening()


def find_whitening(
    kind: WhiteningKind,
    layer: DownProjections,
    moments: Moments | None,
    epsilon: float | None,
    gradients: Tensor | None = None,
) -> Whitening:
    """The whitened bases of a layer.

    Args:
        kind: which modes to whiten.
        layer: the layer, whose down projections turn keys into outputs.
        moments: second moments of the layer's keys over preserved text; may be None only if kind is "none".
        epsilon: added to the diagonals, positive; None for `EPSILON_SHARE` of their means.
        gradients: (d_m, d_m) mean of g g^T, which whitens outputs instead of their own moment.

    Raises:
        StatisticsError: there are no moments, they count no tokens, or they are not finite.
    """
    if kind == "none":
        return NOT_WHITENED
    if moments is None or not int(moments.tokens.sum()):
        raise StatisticsError(
            f"layer {layer.index}: whitening {kind!r} needs the second moments of preserved text: give a "
            "corpus, or set whitening to none"
        )
    inner = square_root(key_moment(moments), epsilon) if kind in {"in", "both"} else None
    if kind == "in":
        return Whitening(inner)
    if gradients is None:
        return Whitening(inner, square_root(output_moment(moments, layer), epsilon))
    root = square_root(gradients, epsilon)
    return Whitening(inner, Root(root=root.inverse, inverse=root.root))


def key_moment(moments: Moments) -> Tensor:
    """The mean of k k^T over all routed pairs of the layer, (d_k, d_k) fp64."""
    return moments.second.sum(0, dtype=torch.float64) / moments.tokens.sum()


def output_moment(moments: Moments, layer: DownProjections) -> Tensor:
    """The mean of y y^T over all routed pairs, with y = W_j k without bias, (d_m, d_m) fp64."""
    total = torch.zeros(layer.d_model, layer.d_model, dtype=torch.float64, device=layer.device)
    with layer.weights() as stacked:
        for expert, second in enumerate(moments.second):
            weight = stacked[expert].float()  # (d_m, d_k)
            total += weight @ second.to(weight) @ weight.T
    return total.cpu() / moments.tokens.sum()


def square_root(second: Tensor, epsilon: float | None) -> Root:
    """The square root, and its inverse, of a symmetric second moment (d, d) plus `epsilon` I.

    Without an epsilon it is `EPSILON_SHARE` of the mean eigenvalue.

    Raises:
        StatisticsError: the moment is not finite, or has no eigendecomposition.
    """
    if not bool(torch.isfinite(second).all()):
        raise StatisticsError("the moment for whitening is not finite: look for NaN in the model")
    try:
        values, vectors = torch.linalg.eigh(second.double())  # (d,), (d, d)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # documented, but not exported
        raise StatisticsError(f"the moment for whitening has no eigendecomposition: {error}") from error
    values = values.clamp_min(0.0)
    if epsilon is None:
        epsilon = max(EPSILON_SHARE * float(values.mean()), torch.finfo(torch.float64).tiny)
    scale = (values + epsilon).sqrt()  # (d,)
    return Root(root=(vectors * scale) @ vectors.T, inverse=(vectors / scale) @ vectors.T)

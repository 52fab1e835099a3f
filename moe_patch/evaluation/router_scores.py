"""A router's scores as a distribution over experts, by the function that the router itself makes gates with.

Most routers return logits and take a softmax of them. Others take sigmoids (DeepSeek-V3, GLM-4.5, MiniMax-M2)
or the root of a softplus (DeepSeek-V4), and no softmax is anywhere in the model. Which function a router has
is read off what it did: within a token, gates are in the proportions of the function's values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_patch.base.capture import ExpertCall

GateFunction = Literal["softmax", "sigmoid", "sqrtsoftplus", "none"]
"""What makes gates of scores; "none" if the scores are what gates are made of already."""

_FIT = 0.02  # mean distance of gates' shares, from 0 to 1, that half precision can explain

_VALUES: Mapping[GateFunction, Callable[[Tensor], Tensor]] = {
    "softmax": lambda scores: scores.softmax(-1),
    "sigmoid": torch.sigmoid,
    "sqrtsoftplus": lambda scores: F.softplus(scores).sqrt(),
    "none": lambda scores: scores,
}


def gate_function(call: ExpertCall) -> GateFunction:
    """The function whose values a layer's gates are in proportion to; softmax if none is.

    Raises:
        ValueError: the call has no scores.
    """
    if call.scores is None:
        raise ValueError("the call was recorded without scores")
    scores = call.scores.double()
    if bool((scores >= 0).all()) and _adds_up(scores):
        return "none"
    distances = {name: _distance(call, value(scores)) for name, value in _VALUES.items()}
    best = min(distances, key=lambda name: distances[name])
    return best if distances[best] < _FIT else "softmax"


def routing_distribution(scores: Tensor, function: GateFunction) -> Tensor:
    """The router's scores (N, E) as log-probabilities over experts: the function's values, to a sum of 1."""
    if function == "softmax":
        return scores.double().log_softmax(-1)
    values = _VALUES[function](scores.double()).clamp_min(torch.finfo(torch.float32).tiny)
    return (values / values.sum(-1, keepdim=True)).log()


def _adds_up(scores: Tensor) -> bool:
    sums = scores.sum(-1)
    return torch.allclose(sums, torch.ones_like(sums), atol=1e-3)


def _distance(call: ExpertCall, values: Tensor) -> float:
    """How far gates are from the proportions of values (N, E), as the mean distance of their shares.

    The shares are those of a token's K choices. Of one choice alone, they are those of all tokens.
    """
    real = (call.experts < values.shape[1]).to(values.device)  # (N, K)
    chosen = values.gather(1, call.experts.clamp_max(values.shape[1] - 1))  # (N, K)
    gates = torch.where(real, call.gates.double().to(values.device), 0.0)
    chosen = torch.where(real, chosen, 0.0)
    if bool((chosen < 0).any()):
        return torch.inf
    if call.experts.shape[1] == 1:
        return float(
            (_shares(gates.T) - _shares(chosen.T)).abs().sum()
        )  # each share is small, if tokens are many
    return float((_shares(gates) - _shares(chosen)).abs().mean())


def _shares(rows: Tensor) -> Tensor:
    return rows / rows.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)

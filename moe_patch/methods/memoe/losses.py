"""MEMoE's losses. g is the rank of a fact's GECE, from 0 for the most frequent knowledge to 1.

The paper minimises a balance term -c(g) KL(edited || unedited). That rewards distance from the unedited
model. The term is meant to hold the model back, so by default it is added here with a plus sign
(`balance_form`).
"""

from __future__ import annotations

import torch
from torch import Tensor


def adaptive_weight(g: Tensor, gamma: float, tau: float) -> Tensor:
    """w(g) = (1 + tanh(gamma_1 (g - tau))) / 2, the cross entropy's weight: larger for rare knowledge."""
    return (1 + torch.tanh(gamma * (g - tau))) / 2


def balance_coefficient(g: Tensor, gamma: float) -> Tensor:
    """1 / (1 + exp(gamma_2 g)), the weight of the balance term: larger for frequent knowledge."""
    return torch.sigmoid(-gamma * g)


def kl_divergence(edited: Tensor, unedited: Tensor) -> Tensor:
    """KL(edited || unedited) in nats, (n,), from log-probabilities (n, V)."""
    return (edited.exp() * (edited - unedited)).sum(-1)


def focal_loss(log_r: Tensor, gamma: float) -> Tensor:
    """-(1 - r)^gamma_3 log r, from log-probabilities log r of the right routes, of any shape."""
    return -((1 - log_r.exp()).clamp_min(0) ** gamma) * log_r

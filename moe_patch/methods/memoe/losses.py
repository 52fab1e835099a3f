"""MEMoE's losses, for facts whose GECE ranks at g, from 0 for the most frequent knowledge to 1.

The paper writes the balance term as -c(g) KL(edited || unedited), to be minimised. Minimising that would
reward every step away from the unedited model without bound. It is meant as a constraint, and is one here:
the term is added.
"""

from __future__ import annotations

import torch
from torch import Tensor


def adaptive_weight(g: Tensor, gamma: float, tau: float) -> Tensor:
    """w(g) = (1 + tanh(gamma_1 (g - tau))) / 2 of the cross entropy: rare knowledge weighs more."""
    return (1 + torch.tanh(gamma * (g - tau))) / 2


def balance_coefficient(g: Tensor, gamma: float) -> Tensor:
    """1 / (1 + exp(gamma_2 g)) of the balance term: frequent knowledge is held more firmly."""
    return torch.sigmoid(-gamma * g)


def kl_divergence(edited: Tensor, unedited: Tensor) -> Tensor:
    """KL(edited || unedited) in nats, (n,), from log-probabilities (n, V)."""
    return (edited.exp() * (edited - unedited)).sum(-1)


def focal_loss(log_r: Tensor, gamma: float) -> Tensor:
    """-(1 - r)^gamma_3 log r of the wanted route's log-probability, of any shape."""
    return -((1 - log_r.exp()).clamp_min(0) ** gamma) * log_r

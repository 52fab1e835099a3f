"""The gates g(i|x), with which the outputs or the weights of several experts become one.

They are the router's probabilities r over the experts. The scope gate's route has no part in them: it decides
whether anything is added, and not how much.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moe_patch.bypass.config import BypassConfig


def expert_gates(logits: Tensor, config: BypassConfig) -> Tensor:
    """The gates (B, n) of logits (B, routes), with their gradient.

    With `merge` "weighted" they are G = top_k(softmax(...)) of MEMoE (arXiv 2405.19086): the `top_k` largest
    probabilities as they are, and zero for the other experts. With "soft" they are all probabilities.
    """
    likely = logits[:, : config.experts].softmax(-1)  # (B, n)
    if config.merge == "soft":
        return likely
    chosen = likely.topk(config.top_k).indices  # (B, k)
    return torch.zeros_like(likely).scatter(1, chosen, likely.gather(1, chosen))


def scoped_gates(logits: Tensor, config: BypassConfig) -> Tensor:
    """The gates (B, n), all zero for a prompt whose likeliest route is the scope gate's."""
    alone = logits.argmax(-1, keepdim=True) == config.experts  # (B, 1)
    return expert_gates(logits, config).masked_fill(alone, 0.0)

"""Routers, which choose the expert of a prompt from hidden states of the unedited model.

The dual-attention router of MEMoE takes the prompt's states e and the output e^ of an adapter on them. Each
attends to the other over the whole prompt:

    A = softmax(e e^^T / sqrt(d)) e^,    A^ = softmax(e^ e^T / sqrt(d)) e,
    r = softmax(W_r (alpha A + beta A^))

A whole prompt goes to one expert, so alpha A + beta A^ is averaged over the prompt's tokens before W_r. The
states are first scaled to unit root mean square. The same learning rate then works for every base.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_patch.bypass.config import BypassConfig

LEAVE_ALONE = -1
"""The route of a prompt that is outside the scope of every edit. No expert adds anything to it."""


class Router(nn.Module, ABC):
    """Maps a prompt's states to logits over the routes. The last one is the scope gate's, if there is one."""

    def __init__(self, config: BypassConfig) -> None:
        super().__init__()
        self.config = config
        self.output = nn.Linear(config.width, config.routes)  # W_r

    def forward(self, states: Tensor, prompt: Tensor) -> Tensor:
        """Logits (B, routes) in fp32.

        Args:
            states: (B, S, d_m), of any float dtype.
            prompt: (B, S) bool, which tokens belong to the prompt; at least one in each row.
        """
        unit = F.rms_norm(states.float(), states.shape[-1:])  # (B, S, d_m)
        read: Tensor = self.output(self.read(unit, prompt))
        return read

    @abstractmethod
    def read(self, states: Tensor, prompt: Tensor) -> Tensor:
        """The vectors (B, d_m) to classify, from states (B, S, d_m) of unit root mean square."""


class DualAttentionRouter(Router):
    """The published router. The adapter's output projection starts at zero, so e^ starts equal to e."""

    def __init__(self, config: BypassConfig) -> None:
        super().__init__(config)
        self.down = nn.Linear(config.width, config.adapter_width)
        self.up = nn.Linear(config.adapter_width, config.width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def read(self, states: Tensor, prompt: Tensor) -> Tensor:
        """As the base class has it."""
        adapted = states + self.up(F.silu(self.down(states)))  # (B, S, d_m)
        seen = prompt[:, None, :]  # (B, 1, S): every token attends to the whole prompt
        attended = self.config.alpha * F.scaled_dot_product_attention(states, adapted, adapted, seen)
        attended = attended + self.config.beta * F.scaled_dot_product_attention(adapted, states, states, seen)
        return mean_over(attended, prompt)


class MLPRouter(Router):
    """An ablation: the same adapter as a plain perceptron on the average state, without attention."""

    def __init__(self, config: BypassConfig) -> None:
        super().__init__(config)
        self.down = nn.Linear(config.width, config.adapter_width)
        self.up = nn.Linear(config.adapter_width, config.width)

    def read(self, states: Tensor, prompt: Tensor) -> Tensor:
        """As the base class has it."""
        raised: Tensor = self.up(F.silu(self.down(mean_over(states, prompt))))
        return raised


ROUTERS: dict[str, type[Router]] = {"dual-attention": DualAttentionRouter, "mlp": MLPRouter}


def mean_over(states: Tensor, prompt: Tensor) -> Tensor:
    """The mean (B, d) of states (B, S, d) over the tokens in `prompt` (B, S) bool."""
    weight = prompt.to(states.dtype)  # (B, S)
    return torch.einsum("bsd,bs->bd", states, weight) / weight.sum(1, keepdim=True)


def choose_route(logits: Tensor, config: BypassConfig) -> Tensor:
    """The likeliest route (B,) of logits (B, routes): an expert's number, or LEAVE_ALONE."""
    route = logits.argmax(-1)
    return torch.where(route == config.experts, LEAVE_ALONE, route)

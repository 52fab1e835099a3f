"""Which expert a prompt goes to, from hidden states of the unedited model.

The dual-attention router of MEMoE looks at the prompt's states e and at what an adapter makes of them, e^,
and lets each attend to the other over the whole prompt:

    A = softmax(e e^^T / sqrt(d)) e^,    A^ = softmax(e^ e^T / sqrt(d)) e,
    r = softmax(W_r (alpha A + beta A^))

The instance as a whole goes to one expert, so alpha A + beta A^ is averaged over the prompt's tokens before
W_r. States are brought to unit root mean square first: the same learning rate then suits every base.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_patch.bypass.config import BypassConfig

LEAVE_ALONE = -1
"""The route of a prompt that is outside every edit's scope: no expert adds anything."""


class Router(nn.Module, ABC):
    """From a prompt's states to logits over the routes, the last of which is the scope gate's, if any."""

    def __init__(self, config: BypassConfig) -> None:
        super().__init__()
        self.config = config
        self.output = nn.Linear(config.width, config.routes)  # W_r

    def forward(self, states: Tensor, prompt: Tensor) -> Tensor:
        """Logits (B, routes) in fp32.

        Args:
            states: (B, S, d_m), of any float dtype.
            prompt: (B, S) bool, which of the tokens are the prompt's; at least one in each row.
        """
        unit = F.rms_norm(states.float(), states.shape[-1:])  # (B, S, d_m)
        read: Tensor = self.output(self.read(unit, prompt))
        return read

    @abstractmethod
    def read(self, states: Tensor, prompt: Tensor) -> Tensor:
        """What is to be classified (B, d_m), from states (B, S, d_m) of unit root mean square."""


class DualAttentionRouter(Router):
    """The published router. The adapter's output projection starts at zero, and e^ as e."""

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

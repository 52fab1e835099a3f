"""Routers, which rate the experts for a prompt from hidden states of the unedited model.

MEMoE's router takes the prompt's states e and the output e^ of an adapter on them. Each attends to the other
over the whole prompt. It is here in two forms. The published one has projections and learns alpha and beta:

    e^ = W_up W_down e,    A = softmax(W_q e^ (W_k e)^T / sqrt(d)) W_v e,
    A^ = softmax(W_q e (W_k e^)^T / sqrt(d)) W_v e^,    r = softmax(W_r (alpha A + beta A^))

and W_r reads the last token of the prompt. This project's form has an adapter with a SiLU beside a residual,
no projections, and constants alpha and beta; A and A^ have each other's names:

    e^ = e + W_up silu(W_down e + b) + b',
    A = softmax(e e^^T / sqrt(d)) e^,    A^ = softmax(e^ e^T / sqrt(d)) e

Its W_r reads the mean over the prompt's tokens, of states that are first scaled to unit root mean square. The
same learning rate then works for every base.
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

    def __init__(self, config: BypassConfig, output: nn.Linear | None = None) -> None:
        super().__init__()
        self.config = config
        self.output = nn.Linear(config.width, config.routes) if output is None else output  # W_r

    def forward(self, states: Tensor, prompt: Tensor) -> Tensor:
        """Logits (B, routes) in fp32.

        Args:
            states: (B, S, d_m), of any float dtype.
            prompt: (B, S) bool, which tokens belong to the prompt; at least one in each row.
        """
        read: Tensor = self.output(self.read(self.scaled(states.float()), prompt))
        return read

    def scaled(self, states: Tensor) -> Tensor:
        """The states (B, S, d_m) as they are read: of unit root mean square."""
        return F.rms_norm(states, states.shape[-1:])

    @abstractmethod
    def read(self, states: Tensor, prompt: Tensor) -> Tensor:
        """The vectors to classify, (B, d_m) or as wide as W_r is, from scaled states (B, S, d_m)."""


class DualAttentionRouter(Router):
    """This project's form. The adapter's output projection starts at zero, so e^ starts equal to e."""

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


class PublishedRouter(Router):
    """The paper's form, without biases, on states as they are. Only the last token's queries are computed."""

    def __init__(self, config: BypassConfig) -> None:
        super().__init__(config, nn.Linear(config.attended, config.routes, bias=False))
        self.down = nn.Linear(config.width, config.adapter_width, bias=False)
        self.up = nn.Linear(config.adapter_width, config.width, bias=False)
        self.query = nn.Linear(config.width, config.attended, bias=False)  # W_q
        self.key = nn.Linear(config.width, config.attended, bias=False)  # W_k
        self.value = nn.Linear(config.width, config.attended, bias=False)  # W_v
        self.alpha = nn.Parameter(torch.full((1,), config.alpha))
        self.beta = nn.Parameter(torch.full((1,), config.beta))

    def scaled(self, states: Tensor) -> Tensor:
        """As they are: the paper names no normalisation."""
        return states

    def read(self, states: Tensor, prompt: Tensor) -> Tensor:
        """As the base class has it."""
        adapted = self.up(self.down(states))  # (B, S, d_m)
        asked = self._attended(last_of(adapted, prompt), states, prompt)  # A, (B, d)
        answered = self._attended(last_of(states, prompt), adapted, prompt)  # A^, (B, d)
        return self.alpha * asked + self.beta * answered

    def _attended(self, asking: Tensor, asked: Tensor, prompt: Tensor) -> Tensor:
        """What the last tokens `asking` (B, d_m) read of the prompts `asked` (B, S, d_m), (B, d)."""
        query, key, value = self.query(asking)[:, None], self.key(asked), self.value(asked)
        read = F.scaled_dot_product_attention(query, key, value, prompt[:, None, :])  # (B, 1, d)
        return read[:, 0]


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


ROUTERS: dict[str, type[Router]] = {
    "dual-attention": DualAttentionRouter,
    "published": PublishedRouter,
    "mlp": MLPRouter,
}


def mean_over(states: Tensor, prompt: Tensor) -> Tensor:
    """The mean (B, d) of states (B, S, d) over the tokens in `prompt` (B, S) bool."""
    weight = prompt.to(states.dtype)  # (B, S)
    return torch.einsum("bsd,bs->bd", states, weight) / weight.sum(1, keepdim=True)


def last_of(states: Tensor, prompt: Tensor) -> Tensor:
    """The states (B, d) of each prompt's last token, from (B, S, d) and `prompt` (B, S) bool."""
    place = torch.arange(prompt.shape[1], device=prompt.device).expand_as(prompt)  # (B, S)
    last = torch.where(prompt, place, -1).argmax(1)  # (B,)
    return states[torch.arange(len(states), device=states.device), last.to(states.device)]


def choose_route(logits: Tensor, config: BypassConfig) -> Tensor:
    """The likeliest route (B,) of logits (B, routes): an expert's number, or LEAVE_ALONE."""
    route = logits.argmax(-1)
    return torch.where(route == config.experts, LEAVE_ALONE, route)

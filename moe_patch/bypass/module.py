"""The module beside the block: h(x) = Block(x) + lambda * sum_i g(i|x) E_i(x).

By default (`merge` "hard") one g is 1 and the others are 0. g is not the router's probability of the chosen
expert. Otherwise the strength of an edit would depend on how confident the router is about a paraphrase, and
experts would be trained against a router that still changes. With "weighted", g are the probabilities of the
likeliest experts, as published. With "soft", one expert runs whose weights are the mean of all experts'
weights by probability (Muqeeth et al., arXiv 2306.03745).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_patch.bypass.config import BypassConfig
from moe_patch.bypass.gates import scoped_gates
from moe_patch.bypass.router import LEAVE_ALONE, ROUTERS, Router, choose_route


class Experts(nn.Module):
    """n gated perceptrons, E_i(x) = W_down,i (silu(W_gate,i x) * W_up,i x), stacked.

    The output projections start at zero, so that a new expert adds exactly nothing.
    """

    def __init__(self, config: BypassConfig) -> None:
        super().__init__()
        inner = (config.experts, config.expert_width, config.width)
        self.gate = nn.Parameter(torch.empty(inner).normal_(std=config.width**-0.5))  # (n, d_e, d_m)
        self.up = nn.Parameter(torch.empty(inner).normal_(std=config.width**-0.5))  # (n, d_e, d_m)
        self.down = nn.Parameter(torch.zeros(config.experts, config.width, config.expert_width))

    def forward(self, x: Tensor, expert: int) -> Tensor:
        """E_i(x), (..., d_m), of inputs (..., d_m)."""
        inner = F.silu(F.linear(x, self.gate[expert])) * F.linear(x, self.up[expert])  # (..., d_e)
        return F.linear(inner, self.down[expert])

    def merged(self, x: Tensor, gates: Tensor) -> Tensor:
        """The output (..., d_m) of the expert with the weights sum_i g_i W_i, for inputs (..., d_m).

        The merged weights are never made, since (sum_i g_i W_i) x = sum_i g_i (W_i x).

        Args:
            gates: (..., n), one row for each input.
        """
        inner = F.silu(_mixed(x, self.gate, gates)) * _mixed(x, self.up, gates)  # (..., d_e)
        return _mixed(inner, self.down, gates)


def _mixed(x: Tensor, weights: Tensor, gates: Tensor) -> Tensor:
    """sum_i g_i W_i x, (..., p), of inputs (..., q), weights (n, p, q) and gates (..., n)."""
    mixed = gates[..., 0, None] * F.linear(x, weights[0])
    for expert in range(1, len(weights)):
        mixed = mixed + gates[..., expert, None] * F.linear(x, weights[expert])
    return mixed


class Bypass(nn.Module):
    """Experts and router. The experts may be cast to the base's dtype, but the router must stay in fp32."""

    def __init__(self, config: BypassConfig) -> None:
        super().__init__()
        self.config = config
        self.experts = Experts(config)
        self.router: Router = ROUTERS[config.router](config)

    @torch.no_grad()
    def route(self, states: Tensor, prompt: Tensor) -> Tensor:
        """The decision for each prompt. Call once per request.

        Returns:
            with `merge` "hard" (B,) int64, an expert's number or LEAVE_ALONE; else (B, n) fp32, the gates of
            the experts, all zero for a prompt that is left alone.

        Args:
            states: (B, S, d_m), the hidden states that `config.router_states` names.
            prompt: (B, S) bool, which tokens belong to the prompts and not to padding or answers.
        """
        logits = self.router(states, prompt)  # (B, routes)
        if self.config.merge == "hard":
            return choose_route(logits, self.config)
        return scoped_gates(logits, self.config)

    def forward(self, x: Tensor, route: Tensor) -> Tensor:
        """What to add to the block's output for its inputs `x`: lambda E_route(x), or zero for LEAVE_ALONE.

        Args:
            x: (B, ..., d_m), or (N, d_m) if tokens of several requests share one row.
            route: (B,) or (N,), numbers of experts, or (B, n) or (N, n), gates: the decision for each entry
                of the first dimension of `x`.

        Returns:
            a tensor in the shape and dtype of `x`. The products are taken in the experts' dtype.
        """
        if route.ndim > 1:
            return self._merged(x, route)
        added = torch.zeros_like(x)
        for expert in range(self.config.experts):
            rows = (route == expert).nonzero().squeeze(1)  # (n,)
            if len(rows):
                added = added.index_copy(0, rows, self.expert(x.index_select(0, rows), expert))
        return added

    def _merged(self, x: Tensor, gates: Tensor) -> Tensor:
        """lambda times what the experts put out together, by gates (B, n), in the shape and dtype of `x`."""
        if self.config.merge == "soft":
            per_input = gates.view(len(gates), *[1] * (x.ndim - 2), -1)  # (B, ..., n)
            kind = self.experts.down.dtype
            soft: Tensor = self.config.scale * self.experts.merged(x.to(kind), per_input.to(kind))
            return soft.to(x.dtype)
        added = torch.zeros_like(x)
        for expert in range(self.config.experts):
            rows = gates[:, expert].nonzero().squeeze(1)  # (m,)
            if len(rows):
                weight = gates[rows, expert].view(-1, *[1] * (x.ndim - 1))  # (m, ..., 1)
                output = weight * self.expert(x.index_select(0, rows), expert)
                added = added.index_add(0, rows, output.to(x.dtype))
        return added

    def expert(self, x: Tensor, expert: int) -> Tensor:
        """lambda E_i(x) for inputs (..., d_m), in their shape and dtype, computed in the experts' dtype."""
        outputs: Tensor = self.config.scale * self.experts(x.to(self.experts.down.dtype), expert)
        return outputs.to(x.dtype)

    def keep_precision(self, dtype: torch.dtype, device: torch.device) -> Bypass:
        """Move to a device, with the experts in `dtype` and the router in fp32. Returns itself."""
        self.experts.to(device, dtype)
        self.router.to(device, torch.float32)
        return self


def is_acting(route: Tensor) -> Tensor:
    """Which prompts (B,) bool are not left alone, by their decisions: numbers (B,) or gates (B, n)."""
    return route != LEAVE_ALONE if route.ndim == 1 else (route != 0).any(1)

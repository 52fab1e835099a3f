"""The module beside the block: h(x) = Block(x) + lambda * sum_i g(i|x) E_i(x), with one g of 1, the others 0.

g is not the router's probability of the chosen expert. Otherwise the strength of an edit would depend on how
confident the router is about a paraphrase, and experts would be trained against a router that still changes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_patch.bypass.config import BypassConfig
from moe_patch.bypass.router import ROUTERS, Router, choose_route


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


class Bypass(nn.Module):
    """Experts and router. The experts may be cast to the base's dtype, but the router must stay in fp32."""

    def __init__(self, config: BypassConfig) -> None:
        super().__init__()
        self.config = config
        self.experts = Experts(config)
        self.router: Router = ROUTERS[config.router](config)

    @torch.no_grad()
    def route(self, states: Tensor, prompt: Tensor) -> Tensor:
        """The decision (B,) int64 for each prompt: an expert's number, or LEAVE_ALONE. Call once per request.

        Args:
            states: (B, S, d_m), the hidden states that `config.router_states` names.
            prompt: (B, S) bool, which tokens belong to the prompts and not to padding or answers.
        """
        return choose_route(self.router(states, prompt), self.config)

    def forward(self, x: Tensor, route: Tensor) -> Tensor:
        """What to add to the block's output for its inputs `x`: lambda E_route(x), or zero for LEAVE_ALONE.

        Args:
            x: (B, ..., d_m), or (N, d_m) if tokens of several requests share one row.
            route: (B,) or (N,): the decision for each entry of the first dimension of `x`.

        Returns:
            a tensor in the shape and dtype of `x`. The products are taken in the experts' dtype.
        """
        added = torch.zeros_like(x)
        for expert in range(self.config.experts):
            rows = (route == expert).nonzero().squeeze(1)  # (n,)
            if len(rows):
                added = added.index_copy(0, rows, self.expert(x.index_select(0, rows), expert))
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

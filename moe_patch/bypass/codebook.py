"""A codebook beside a block: near one of its keys, the block's output at a prompt is replaced by a value.

    h(x) = value_i if ||q - key_i|| <= radius_i, else Block(x),    i = argmin_j ||q - key_j||

q is the block's input at the prompt's last token. This is the adaptor of GRACE (Hartvigsen et al., NeurIPS
2023, equation 1). The distance is Euclidean. Of keys that are equally near, the latest counts. What is
generated after the prompt passes the block as it is.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from moe_patch.bypass.config import WIDEST
from moe_patch.bypass.router import LEAVE_ALONE
from moe_patch.io.closed_schema import ClosedSchema

Replaced = Literal["prompt", "last"]
"""The tokens at which a value takes the place of the block's output: the prompt's, or only its last one."""

MOST_KEYS = 2**20


class CodebookConfig(ClosedSchema):
    """Sizes and switches of a codebook."""

    layer: int = Field(ge=0, lt=10**6, description="The decoder layer that it is beside.")
    width: int = Field(ge=1, le=WIDEST, description="Width of the residual stream, d_m.")
    keys: int = Field(ge=1, le=MOST_KEYS, description="How many keys there are, n.")
    tokens: Replaced = "prompt"


class Codebook(nn.Module):
    """n keys, each with a value and a radius; one with a negative radius is near nothing."""

    def __init__(self, config: CodebookConfig) -> None:
        super().__init__()
        self.config = config
        self.key = nn.Parameter(torch.zeros(config.keys, config.width))  # (n, d_m)
        self.value = nn.Parameter(torch.zeros(config.keys, config.width))  # (n, d_m)
        self.radius = nn.Parameter(torch.zeros(config.keys))  # (n,)

    @torch.no_grad()
    def route(self, states: Tensor, prompt: Tensor) -> Tensor:
        """The key (B,) int64 of each prompt, or LEAVE_ALONE. Call once per request.

        Args:
            states: (B, S, d_m), the block's inputs.
            prompt: (B, S) bool, which tokens belong to the prompts and not to padding or answers.
        """
        query = states[last_tokens(prompt)].float()  # (B, d_m)
        distance, nearest = nearest_keys(query, self.key)  # (B,) each
        return torch.where(distance <= self.radius[nearest], nearest, LEAVE_ALONE)

    def replaced(self, prompt: Tensor) -> Tensor:
        """The tokens (B, S) bool at which a value takes the place of the block's output."""
        return replaced_tokens(prompt, self.config.tokens)

    def keep_precision(self, dtype: torch.dtype, device: torch.device) -> Codebook:
        """Move to a device, with values in `dtype`, and keys and radii in fp32. Returns itself."""
        self.to(device)
        self.value.data = self.value.data.to(dtype)
        return self


def nearest_keys(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Distance and number (B,) of the nearest of keys (n, d) to each query (B, d); of equals, the latest."""
    exactly = "donot_use_mm_for_euclid_dist"  # the fast way cancels where a query is a key
    distance = torch.cdist(query, key.to(query.dtype), compute_mode=exactly)  # (B, n)
    least, place = distance.flip(1).min(1)
    return least, key.shape[0] - 1 - place


def last_tokens(prompt: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column (B,) of the last token of each prompt, from `prompt` (B, S) bool."""
    column = torch.arange(prompt.shape[1], device=prompt.device).expand_as(prompt)  # (B, S)
    return torch.arange(len(prompt), device=prompt.device), torch.where(prompt, column, -1).amax(1)


def replaced_tokens(prompt: Tensor, tokens: Replaced) -> Tensor:
    """The tokens (B, S) bool of prompts (B, S) bool at which the block's output is replaced."""
    if tokens == "prompt":
        return prompt
    last = torch.zeros_like(prompt)
    last[last_tokens(prompt)] = True
    return last

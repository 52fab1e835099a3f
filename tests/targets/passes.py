"""Passes with a change in them, written without the search's own machinery."""

from __future__ import annotations

import torch
from torch import Tensor

from moe_patch.base.model import Base
from moe_patch.data.prompts import Prompt


def logits_with(base: Base, prompt: Prompt, change: Tensor, layer: int) -> Tensor:
    """(S, V) of one uncached pass with `change` (d_m,) added at the edited token."""

    def add(_module: object, _inputs: object, states: Tensor) -> Tensor:
        return states + change * (torch.arange(states.shape[1]) == prompt.edited)[None, :, None]

    hook = base.decoder_layers[layer].register_forward_hook(add)
    logits: Tensor = base.model(input_ids=torch.tensor([prompt.ids]), use_cache=False).logits[0]
    hook.remove()
    return logits


def stream_after(base: Base, prompt: Prompt, layer: int) -> Tensor:
    """The layer's output (d_m,) at the edited token."""
    seen: list[Tensor] = []
    hook = base.decoder_layers[layer].register_forward_hook(lambda _m, _i, states: seen.append(states[0]))
    with torch.no_grad():
        base.model(input_ids=torch.tensor([prompt.ids]), use_cache=False)
    hook.remove()
    return seen[0][prompt.edited]

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

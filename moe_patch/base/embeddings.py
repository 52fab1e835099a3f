"""The embeddings of a base's tokens, with noise added to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from moe_patch.base.model import Base
from moe_patch.errors import CaptureError


@torch.no_grad()
def embed(base: Base, tokens: Sequence[int]) -> Tensor:
    """What the base's embedding gives for n tokens, (n, d_m) fp32 on the CPU."""
    module: Any = base.model.get_input_embeddings()
    states: Tensor = module(torch.tensor([tokens], device=base.device))
    return states[0].float().cpu()


@contextmanager
def noisy_embeddings(base: Base, noise: Tensor) -> Iterator[None]:
    """Inside the block, passes over (B, S) tokens have `noise` (B, S, d_m) added to their embeddings.

    Raises:
        CaptureError: the embedding's output has another shape than the noise.
    """

    def add(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        if output.shape != noise.shape:
            raise CaptureError(
                f"the embedding of {base.name} gives {tuple(output.shape)}, but the noise is for "
                f"{tuple(noise.shape)}"
            )
        return output + noise.to(output)

    hook = base.model.get_input_embeddings().register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()

"""The feed-forward blocks of a base. A bypass runs beside one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from moe_patch.base.model import Base
from moe_patch.base.moe import MoELayer
from moe_patch.errors import BypassError, ModelError


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """One decoder layer's feed-forward block, with or without experts."""

    index: int
    module: nn.Module
    width: int  # d_m, of its inputs and outputs

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its weights."""
        return next(self.module.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """The device on which it runs."""
        hook: Any = getattr(next(self.module.modules()), "_hf_hook", None)
        device = getattr(hook, "execution_device", None)
        return next(self.module.parameters()).device if device is None else torch.device(device)


def find_block(base: Base, index: int) -> Block:
    """The block of decoder layer `index`.

    Raises:
        ModelError: there is no such layer, or its experts share their module with another block.
    """
    layer = base.feed_forward(index)
    if not isinstance(layer, MoELayer):
        return Block(index, layer.block, base.hidden_size)
    module = base.model.get_submodule(layer.name.rpartition(".")[0])
    if module is base.decoder_layers[index]:
        raise ModelError(
            f"the experts of layer {index} of {base.name} share their module with another block: choose "
            "another layer"
        )
    return Block(index, module, base.hidden_size)


def block_input(block: Block, arguments: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    """The hidden states (B, S, d_m) with which the block was called.

    Raises:
        BypassError: its first argument is something else.
    """
    given = arguments[0] if arguments else named.get("hidden_states")
    if not isinstance(given, Tensor) or given.ndim != 3 or given.shape[-1] != block.width:
        found = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise BypassError(
            f"the block of layer {block.index} was called with {found}: expected hidden states "
            f"(prompts, tokens, {block.width})"
        )
    return given


def with_replaced(output: Any, row: Tensor, column: Tensor, value: Tensor, shape: Sequence[int]) -> Any:
    """The block's output with other values at some tokens, in the output's dtype.

    Args:
        output: a tensor, or a tuple that starts with one.
        row: (N,) numbers of prompts.
        column: (N,) tokens in them.
        value: (N, d_m).
        shape: (B, S, d_m) of the block's input.
    """
    states: Tensor = output[0] if isinstance(output, tuple) else output
    changed = states.reshape(*shape).index_put((row, column), value.to(states.dtype)).view_as(states)
    return (changed, *output[1:]) if isinstance(output, tuple) else changed


def with_added(output: Any, added: Tensor) -> Any:
    """The block's output (a tensor, or a tuple that starts with one) plus `added` (B, S, d_m)."""
    if isinstance(output, tuple):
        return (output[0] + added.view_as(output[0]), *output[1:])
    return output + added.view_as(output)

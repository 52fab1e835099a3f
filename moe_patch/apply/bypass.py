"""A bypass on a transformers model: hooks on its block, and on the decoder to know where prompts end."""

from __future__ import annotations

import weakref
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from moe_patch.apply.generation import tell_prompts
from moe_patch.base.blocks import Block, block_input, find_block, with_added, with_replaced
from moe_patch.base.experts import Handle
from moe_patch.base.model import Base
from moe_patch.base.playback import playing_back
from moe_patch.bypass import (
    Bypass,
    Codebook,
    acting_tokens,
    declared_columns,
    declared_lengths,
    holds_codebook,
    is_acting,
    prompt_mask,
    read_bypass,
    read_codebook,
    store_route,
    stored_route,
)
from moe_patch.errors import BypassError, PatchError
from moe_patch.patch import Patch
from moe_patch.versions import given_cache, returned_cache, without_cache

_taken: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()  # by block, a patch's hash


def attach_bypass(base: Base, patch: Patch) -> Handle:
    """Let the patch's bypass run beside its block until the handle is removed.

    The experts run in the block's dtype, the router in fp32. So are the values of a codebook and its keys.

    Raises:
        PatchError: the patch holds no valid bypass, its width is not the base's, or the layer has a bypass
            already.
        ModelError: the base has no such layer.
    """
    bypass: Bypass | Codebook = read_codebook(patch) if holds_codebook(patch) else read_bypass(patch)
    layer, block = bypass.config.layer, find_block(base, bypass.config.layer)
    if block.width != bypass.config.width:
        raise PatchError(
            f"the bypass is for a hidden size of {bypass.config.width}, but {base.name} has {block.width}: "
            "choose the base that the patch was built for"
        )
    if block.module in _taken:
        raise PatchError(
            f"layer {layer} has the bypass {_taken[block.module]} already, and two bypasses at one layer "
            "would both add to the same prompt: remove one, or build one bypass for all facts"
        )
    running = _Running(base, block, bypass.keep_precision(block.dtype, block.device), patch.hash)
    with ExitStack() as stack:
        tell_prompts(base.model, stack)
        running.switch_on(stack)
        _taken[block.module] = patch.hash
        stack.callback(_taken.pop, block.module, None)
        return Handle(stack.pop_all())


@dataclass(slots=True)
class _Pass:
    """One pass of the decoder, and which expert each of its prompts goes to."""

    arguments: tuple[Any, ...]  # positional arguments of the decoder
    named: dict[str, Any]  # its keyword arguments
    real: Tensor  # (B, S) bool: tokens that are not padding
    prompt: Tensor | None  # (B, S) bool: tokens of prompts; None if the pass continues from a cache
    route: Tensor | None = None  # (B,) the expert of each prompt or (B, n) gates, once they are known


class _Running:
    """The hooks of one bypass, and the decoder passes that are running, the innermost last."""

    def __init__(self, base: Base, block: Block, bypass: Bypass | Codebook, key: str) -> None:
        self._decoder, self._below = base.decoder, list(base.decoder_layers[: block.index])
        self._block, self._bypass, self._key = block, bypass, key
        self._reads_final = isinstance(bypass, Bypass) and bypass.config.router_states == "final"
        self._passes: list[_Pass | None] = []
        self._ahead = False  # True during the extra pass without the bypass, whose states the router reads

    def switch_on(self, stack: ExitStack) -> None:
        """Register the hooks; the stack removes them."""
        hooks = [
            self._decoder.register_forward_pre_hook(self._begin, with_kwargs=True),
            self._decoder.register_forward_hook(self._end, with_kwargs=True, always_call=True),
            self._block.module.register_forward_hook(self._add, with_kwargs=True),
        ]
        if self._reads_final and self._below:
            hooks.append(self._below[-1].register_forward_hook(self._look_ahead))
        for hook in hooks:
            stack.callback(hook.remove)

    def _begin(self, _decoder: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if self._ahead:
            return
        self._passes.append(None)  # `_end` removes it, even if the next line raises
        current = self._passes[-1] = self._opened(arguments, named)
        if self._reads_final and not self._below and current.prompt is not None:
            current.route = self._route_ahead(current)

    def _end(self, _decoder: nn.Module, _arguments: Any, named: dict[str, Any], output: Any) -> None:
        if self._ahead:
            return
        ended = self._passes.pop()
        cache = given_cache(named)
        cache = returned_cache(output) if cache is None else cache
        if cache is not None and ended is not None and ended.route is not None:
            store_route(cache, self._key, ended.route)

    def _add(self, _block: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
        if self._ahead:
            return None
        current = self._passes[-1] if self._passes else None
        if current is None:
            raise BypassError(f"the block of layer {self._block.index} was called outside of its decoder")
        x = block_input(self._block, arguments, named)  # (B, S, d_m)
        if current.route is None:
            assert current.prompt is not None  # a pass that continues from a cache has its route from there
            current.route = self._bypass.route(x, current.prompt.to(x.device))
        if isinstance(self._bypass, Codebook):
            return self._with_values(self._bypass, x, current, output)
        return self._with_experts(self._bypass, x, current, output)

    def _with_values(self, codebook: Codebook, x: Tensor, current: _Pass, output: Any) -> Any:
        """The block's output with the codebook's values at prompts near its keys, or None to leave it."""
        assert current.route is not None
        if current.prompt is None:  # what follows a prompt passes as it is
            return None
        route, prompt = current.route.to(x.device), current.prompt.to(x.device)
        row, column = (codebook.replaced(prompt) & is_acting(route)[:, None]).nonzero(as_tuple=True)
        if not len(row):
            return None
        return with_replaced(output, row, column, codebook.value[route[row]], x.shape)

    def _with_experts(self, bypass: Bypass, x: Tensor, current: _Pass, output: Any) -> Any:
        """The block's output plus what the experts add, or None to leave the output as it is."""
        assert current.route is not None
        real, route = current.real, current.route.to(x.device)
        if current.prompt is not None:
            real = acting_tokens(real, current.prompt, bypass.config.tokens)
        acts = real.to(x.device) & is_acting(route)[:, None]  # (B, S)
        if not bool(acts.any()):
            return None
        row, column = acts.nonzero(as_tuple=True)  # (N,)
        added = torch.zeros_like(x)
        added[row, column] = bypass(x[row, column], route[row])
        return with_added(output, added)

    def _look_ahead(self, _layer: nn.Module, _inputs: Any, output: Any) -> None:
        """Decide once the last layer below has run: up to here, a pass without the bypass is the same."""
        current = self._passes[-1] if self._passes else None
        if not self._ahead and current is not None and current.prompt is not None:
            with playing_back(self._below, output):
                current.route = self._route_ahead(current)

    @torch.no_grad()
    def _route_ahead(self, current: _Pass) -> Tensor:
        """The decision for each prompt, from the final hidden states of a pass without bypass and cache."""
        assert current.prompt is not None
        assert isinstance(self._bypass, Bypass)  # a codebook reads the block's input
        named = without_cache(current.named)
        self._ahead = True
        try:
            states = self._decoder(*current.arguments, **named | {"use_cache": False})[0]  # (B, S, d_m)
        finally:
            self._ahead = False
        self._bypass.router.to(states.device)
        return self._bypass.route(states, current.prompt.to(states.device))

    def _opened(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> _Pass:
        inputs = named.get("inputs_embeds")
        inputs = named.get("input_ids", arguments[0] if arguments else None) if inputs is None else inputs
        if inputs is None or inputs.ndim < 2 or named.get("cu_seq_lens_q") is not None:
            raise BypassError(
                "a bypass needs inputs of shape (prompts, tokens) with one prompt in each row: packed and "
                "paged batches, such as those of generate_batch, do not show where a prompt begins"
            )
        rows, length = inputs.shape[:2]
        cache = given_cache(named)
        if cache is not None and int(cache.get_seq_length()):
            real = torch.ones(rows, length, dtype=torch.bool, device=inputs.device)
            return _Pass(arguments, named, real, None, stored_route(cache, self._key, rows))
        real = _real(named.get("attention_mask"), rows, length, inputs.device)
        prompt = prompt_mask(real, declared_lengths(), declared_columns())
        return _Pass(arguments, named, real, prompt)


def _real(mask: Any, rows: int, length: int, device: torch.device) -> Tensor:
    """(B, S) bool: which tokens of a first pass are not padding."""
    if mask is None:
        return torch.ones(rows, length, dtype=torch.bool, device=device)
    if not isinstance(mask, Tensor) or tuple(mask.shape) != (rows, length):
        found = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise BypassError(
            f"the attention mask is {found}: a bypass needs one of shape ({rows}, {length}), to know which "
            "tokens are padding"
        )
    return mask.to(device).bool()

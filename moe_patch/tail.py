"""The part of a model that a change of one layer's output at one token can still affect, and nothing else.

Positions left of the edited token never see the change, and layers up to the edited one do not depend on it. The former are
kept as a cache of keys, values and recurrent states; the latter are played back: while a pass runs, those blocks hand the
recorded hidden states on. The model's own `forward` still builds masks, rotary embeddings and logits, so this is the same
for every architecture.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from moe_patch.errors import TargetError
from moe_patch.model import Base
from moe_patch.prompts import AlignedBatch


class Tail:
    """One aligned batch, ready to be continued from layer `layer` and its edited column."""

    def __init__(self, base: Base, batch: AlignedBatch, layer: int) -> None:
        """Run everything once, without gradients.

        Args:
            batch: prompts whose edited tokens share a column.
            layer: decoder layer whose output is going to be changed.
        """
        self._base, self._layer = base, layer
        self._batch = batch.to(base.device)
        self._block: nn.Module = base.decoder_layers[layer]
        self._rest: tuple[Any, ...] | None = None  # what the block returns besides hidden states, if a tuple
        with torch.no_grad():
            self._cache = self._prefill()
            self.hidden = self._record()  # (B, S', d_m): output of `layer` from the edited column on

    def logits(self, change: Tensor, first: int) -> Tensor:
        """Logits after adding `change` (B, d_m) to the layer's output at the edited token.

        Args:
            first: index into the tail's columns from which logits are wanted; 0 is the edited token.

        Returns:
            (B, S' - first, V), differentiable in `change`.
        """
        edited = self.hidden[:, :1] + change[:, None].to(self.hidden.dtype)  # (B, 1, d_m)
        hidden = torch.cat([edited, self.hidden[:, 1:]], dim=1)
        with self._playing_back(hidden):
            return self._forward(first)

    def _prefill(self) -> DynamicCache | None:
        """The cache of everything left of the edited column; None where it is the first."""
        column = self._batch.column
        if column == 0:
            return None
        cache = DynamicCache(config=self._base.model.config)
        self._base.model(
            input_ids=self._batch.ids[:, :column],
            attention_mask=self._batch.mask[:, :column],
            position_ids=self._batch.positions[:, :column],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return cache

    def _record(self) -> Tensor:
        """The layer's output over the tail, as the model is now."""
        seen: list[Any] = []
        hook = self._block.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        try:
            self._forward(0)
        finally:
            hook.remove()
        if len(seen) != 1:
            raise TargetError(f"layer {self._layer} ran {len(seen)} times in one forward pass: not supported")
        if isinstance(seen[0], tuple):
            self._rest = seen[0][1:]
            return seen[0][0].detach()
        hidden: Tensor = seen[0].detach()
        return hidden

    def _forward(self, first: int) -> Tensor:
        column = self._batch.column
        keep = torch.arange(first, self._batch.ids.shape[1] - column, device=self._batch.ids.device)
        output = self._base.model(
            input_ids=self._batch.ids[:, column:],
            attention_mask=self._batch.mask,
            position_ids=self._batch.positions[:, column:],
            past_key_values=copy.deepcopy(self._cache),  # a pass appends to it
            use_cache=self._cache is not None,
            logits_to_keep=keep,
        )
        logits: Tensor = output.logits
        return logits

    @contextmanager
    def _playing_back(self, hidden: Tensor) -> Iterator[None]:
        """Within, blocks up to the edited one do no work, and the edited one returns `hidden`."""

        def output(states: Tensor) -> Any:
            return states if self._rest is None else (states, *self._rest)

        def skip(hidden_states: Tensor, *_: Any, **__: Any) -> Any:
            return output(hidden_states)

        def play(*_: Any, **__: Any) -> Any:
            return output(hidden)

        blocks: list[nn.Module] = list(self._base.decoder_layers[: self._layer + 1])
        own = [block.__dict__.get("forward") for block in blocks]  # accelerate sets one on the instance
        try:
            for block in blocks[:-1]:
                block.__dict__["forward"] = skip
            blocks[-1].__dict__["forward"] = play
            yield
        finally:
            for block, forward in zip(blocks, own, strict=True):
                if forward is None:
                    del block.__dict__["forward"]
                else:
                    block.__dict__["forward"] = forward

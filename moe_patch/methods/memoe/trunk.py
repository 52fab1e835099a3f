"""Running a frozen base on some texts while a bypass beside one block is trained.

Nothing below the block depends on the bypass. The output of the last layer below and the states that the
router reads are recorded once for all texts, and every training step starts from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from moe_patch.base.blocks import Block, block_input, with_added
from moe_patch.base.capture import run_decoder
from moe_patch.base.model import Base
from moe_patch.base.playback import playing_back
from moe_patch.bypass import prompt_mask
from moe_patch.bypass.config import RouterStates
from moe_patch.data.prompts import Prompt, pad_right, pad_token
from moe_patch.errors import BypassError
from moe_patch.targets.passes import cost_beside, divide
from moe_patch.targets.tail import Reads

BlockChange = Callable[[Tensor, Tensor], Tensor]
"""Gives what is added to a block's output, (b, S, d_m), from its input and the places (b,) of its texts."""

_ROWS = 64  # texts in a pass that records


class Trunk:
    """N texts, and what is recorded to run them from the block on.

    Memory: 2 S d_m numbers for each text, with S the length of the longest text.
    """

    def __init__(
        self, base: Base, block: Block, texts: Sequence[Prompt], router_states: RouterStates
    ) -> None:
        """Run the texts once and record.

        Raises:
            BypassError: the output of the layer below is more than hidden states.
        """
        batch = pad_right(texts, pad_token(base.tokenizer)).to(base.device)
        self._base, self._block = base, block
        self._ids, self.real = batch.ids, batch.mask.bool()  # (N, S)
        lengths = [len(text.ids) if text.target is None else text.target for text in texts]
        self.prompt = prompt_mask(self.real, torch.tensor(lengths))  # (N, S)
        self._below = list(base.decoder_layers[: block.index])
        parts = [self._record(rows, router_states) for rows in torch.split(torch.arange(len(texts)), _ROWS)]
        hidden = [hidden for hidden, _, _ in parts if hidden is not None]
        self._hidden = torch.cat(hidden) if hidden else None  # (N, S, d_m); None for the first layer
        self._extra = max((count for _, count, _ in parts), default=0)  # attention weights that layers return
        self.states = torch.cat([states for _, _, states in parts])  # (N, S, d_m), what the router reads

    def logits(self, texts: Tensor, reads: Reads, change: BlockChange | None) -> Tensor:
        """Logits (n, V) at the reads of some of the texts, in as many passes as their lengths ask for.

        Args:
            texts: (B,) numbers of the texts.
            reads: the tokens whose logits are wanted; rows count within `texts`.
            change: what is added to the block's output; places count within `texts`. None adds nothing.
        """
        lengths = self.real[texts].sum(1).tolist()
        passes = divide(lengths, [1] * len(texts), 1, len(texts), cost_beside(self.real.device))
        found, order = [], []
        for some in passes:
            places = torch.tensor(some)  # (b,)
            number, within = torch.nonzero(reads.row[:, None] == places, as_tuple=True)
            found.append(self._pass(texts, places, Reads(within, reads.index[number]), change))
            order.append(number)
        return torch.cat(found)[torch.cat(order).argsort()]

    def _pass(self, texts: Tensor, places: Tensor, reads: Reads, change: BlockChange | None) -> Tensor:
        """Logits (n, V) of one pass over the texts at these places (b,); the reads' rows count within it."""
        numbers = texts[places]
        length = self.length(numbers)
        with ExitStack() as stack:
            if self._hidden is not None:
                hidden = self._hidden[numbers, :length]  # (b, S, d_m)
                played = (hidden, *[None] * self._extra) if self._extra else hidden
                stack.enter_context(playing_back(self._below, played))
            if change is not None:
                stack.callback(self._hook_in(lambda x: change(x, places)).remove)
            stack.callback(_reading_at(self._base.model, reads).remove)
            logits: Tensor = self._base.model(
                input_ids=self._ids[numbers, :length],
                attention_mask=self.real[numbers, :length].long(),
                use_cache=False,
            ).logits
            return logits

    def length(self, texts: Tensor) -> int:
        """S of a pass over some of the texts: the number of tokens of the longest."""
        return int(self.real[texts].sum(1).max())

    def _hook_in(self, change: Callable[[Tensor], Tensor]) -> RemovableHandle:
        def add(_module: nn.Module, arguments: Any, named: Any, output: Any) -> Any:
            return with_added(output, change(block_input(self._block, arguments, named)))

        return self._block.module.register_forward_hook(add, with_kwargs=True)

    @torch.no_grad()
    def _record(self, rows: Tensor, router_states: RouterStates) -> tuple[Tensor | None, int, Tensor]:
        """The hidden states of the layer below, (n, S, d_m), and how many more things it returns; the states
        for the router, (n, S, d_m); for n texts.
        """
        below: list[Any] = []
        entered: list[Tensor] = []
        final: list[Any] = []
        with ExitStack() as stack:
            if self._below:
                hook = self._below[-1].register_forward_hook(lambda _module, _inputs, out: below.append(out))
                stack.callback(hook.remove)
            stack.callback(
                self._block.module.register_forward_pre_hook(
                    lambda _module, arguments, named: entered.append(
                        block_input(self._block, arguments, named)
                    ),
                    with_kwargs=True,
                ).remove
            )
            stack.callback(
                self._base.decoder.register_forward_hook(
                    lambda _module, _inputs, out: final.append(out[0])
                ).remove
            )
            last = self._base.num_layers - 1 if router_states == "final" else self._block.index
            run_decoder(self._base, self._ids[rows], self.real[rows].long(), last)
        states = final[0] if router_states == "final" else entered[0]
        if not self._below:
            return None, 0, states
        hidden, extra = self._hidden_of(below[0])
        return hidden, extra, states

    def _hidden_of(self, output: Any) -> tuple[Tensor, int]:
        """The hidden states (n, S, d_m) in a layer's output, and how many attention weights are with them.

        BLOOM's layers return theirs always, and its decoder drops them.
        """
        hidden, *rest = output if isinstance(output, tuple) and output else (output,)
        if isinstance(hidden, Tensor) and all(_are_attention_weights(one, hidden) for one in rest):
            return hidden, len(rest)
        raise BypassError(
            f"layer {self._block.index - 1} of {self._base.name} returns {type(output).__name__}, but "
            "training needs a layer that returns hidden states alone: choose another layer or method"
        )


def _are_attention_weights(value: Any, hidden: Tensor) -> bool:
    """Whether a layer's further output is (n, heads, S, S), or None in its place."""
    if value is None:
        return True
    rows, length = hidden.shape[:2]
    square = (rows, length, length)
    return isinstance(value, Tensor) and value.ndim == 4 and (len(value), *value.shape[2:]) == square


def _reading_at(model: Any, reads: Reads) -> RemovableHandle:
    """Run the language modelling head on the reads only, so that logits are (n, V), until it is removed."""
    head = model.get_output_embeddings()
    if head is None:
        raise BypassError(f"{type(model).__name__} has no language modelling head to train on")

    def narrow(_head: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor]:
        hidden = arguments[0]  # (B, S, d_m)
        return (hidden[reads.row.to(hidden.device), reads.index.to(hidden.device)],)

    return head.register_forward_pre_hook(narrow)  # type: ignore[no-any-return]

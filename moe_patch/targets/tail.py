"""What a model says once one layer's output is changed at one token of each prompt, computed again and again.

`Tail` computes only what such a change can still affect. Positions left of the edited token never see it, and
layers up to the edited one do not depend on it. The former are kept as a cache of keys, values and recurrent
states; the latter are played back: while a pass runs, those blocks hand the recorded hidden states on. The
model's own `forward` still builds masks, rotary embeddings and logits, so this is one code for every
architecture.

Not every architecture can be continued so. Some take up a recurrent state for one token at a time only, some
treat padding on the left as text, some let later layers use keys of earlier ones. `open_pass` therefore
compares with a whole pass first, and uses `WholePass` where the two differ.
"""

from __future__ import annotations

import copy
import inspect
import logging
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from moe_patch.base.model import Base
from moe_patch.base.playback import playing_back
from moe_patch.data.prompts import Batch, Prompt, align_prompts, pad_right, pad_token
from moe_patch.errors import TargetError
from moe_patch.versions import cache_name, returned_cache

logger = logging.getLogger(__name__)

_unfit: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # models that have to be run whole


@dataclass(frozen=True, slots=True)
class Reads:
    """Where logits are wanted: at token `index[i]` of prompt `row[i]`, never left of its edited token."""

    row: Tensor  # (n,)
    index: Tensor  # (n,)


class ChangedPass(ABC):
    """A batch of prompts, to be run with changes added to what one decoder layer puts out."""

    start: Tensor  # (B, d_m) that output at the edited tokens, without a change

    @abstractmethod
    def logits(self, change: Tensor) -> Tensor:
        """Logits (n, V) at the reads after adding `change` (B, d_m), in which they are differentiable."""

    @torch.no_grad()
    def unchanged(self) -> Tensor:
        """Logits (n, V) at the reads without a change."""
        return self.logits(torch.zeros_like(self.start))


def open_pass(
    base: Base, prompts: Sequence[Prompt], reads: Reads, layer: int, *, check: bool = True
) -> ChangedPass:
    """The cheapest pass that is right for this model.

    Args:
        layer: decoder layer whose output is going to be changed.
        check: compare the tail with a whole pass, unless the model is known to be unfit for it already.

    Raises:
        TargetError: the layer does not put out one residual stream (B, S, d_m), once in a pass.
    """
    if base.model in _unfit:
        return WholePass(base, prompts, reads, layer)
    if not check:
        return Tail(base, prompts, reads, layer)
    whole = WholePass(base, prompts, reads, layer)
    if getattr(base.model.config.get_text_config(), "num_kv_shared_layers", 0):
        reason = "its later layers use keys of earlier ones"
    else:
        tail = Tail(base, prompts, reads, layer)
        apart = _distance(whole.unchanged(), tail.unchanged())
        if apart <= max(1e-3, 16 * torch.finfo(tail.start.dtype).eps):  # rounding makes less
            return tail
        reason = f"continued from a cache it gives logits that are off by {apart:.1%}"
    logger.warning("%s is run whole while targets are searched, which is slower: %s", base.name, reason)
    _unfit.add(base.model)
    return whole


def plain_logits(base: Base, prompts: Sequence[Prompt], reads: Reads) -> Tensor:
    """Logits (n, V) at the reads of one ordinary forward pass over the prompts."""
    batch = pad_right(prompts, pad_token(base.tokenizer)).to(base.device)

    def run(model: Callable[..., Any], **arguments: Any) -> Any:
        return model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False, **arguments)

    return _read_logits(base.model, reads.row, reads.index, run)


def _distance(logits: Tensor, others: Tensor) -> float:
    """Relative distance of two sets of logits (n, V), on average over the n; a shared constant is ignored."""
    expected, found = (x.float() - x.float().mean(-1, keepdim=True) for x in (logits, others))
    return float(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).mean())


class WholePass(ChangedPass):
    """Everything computed every time, the change being added by a hook: slow, and right for every model."""

    def __init__(self, base: Base, prompts: Sequence[Prompt], reads: Reads, layer: int) -> None:
        self._base, self._prompts, self._reads, self._layer = base, prompts, reads, layer
        self._edited = torch.tensor([prompt.edited for prompt in prompts])
        with torch.no_grad():
            states, _ = _recorded(base, layer, lambda: plain_logits(base, prompts, reads))  # (B, S, d_m)
        self.start = states[torch.arange(len(prompts)), self._edited]

    def logits(self, change: Tensor) -> Tensor:
        """As the base class has it."""

        def add(_module: nn.Module, _inputs: object, output: Any) -> Any:
            states, *rest = output if isinstance(output, tuple) else (output,)
            at = (torch.arange(len(change)), self._edited)
            states = states.index_put(at, change.to(states.dtype), accumulate=True)
            return (states, *rest) if isinstance(output, tuple) else states

        hook = self._base.decoder_layers[self._layer].register_forward_hook(add)
        try:
            return plain_logits(self._base, self._prompts, self._reads)
        finally:
            hook.remove()


class Tail(ChangedPass):
    """Only layers above the edited one are run, and only from the edited tokens on."""

    def __init__(self, base: Base, prompts: Sequence[Prompt], reads: Reads, layer: int) -> None:
        self._base = base
        self._blocks: list[nn.Module] = list(base.decoder_layers[: layer + 1])
        self._batch: Batch = align_prompts(prompts, pad_token(base.tokenizer)).to(base.device)
        self._column = int(self._batch.edited[0])
        self._row, self._read_column = reads.row, self._batch.starts[reads.row] + reads.index - self._column
        with torch.no_grad():
            self._cache = self._prefill() if self._column else None
            recorded = _recorded(base, layer, lambda: self._run(base.decoder))
        self._hidden, self._rest = recorded  # (B, S', d_m) from the edited column on
        self.start = self._hidden[:, 0]

    def logits(self, change: Tensor) -> Tensor:
        """As the base class has it."""
        edited = self._hidden[:, :1] + change[:, None].to(self._hidden.dtype)  # (B, 1, d_m)
        hidden = torch.cat([edited, self._hidden[:, 1:]], dim=1)
        with playing_back(self._blocks, hidden if self._rest is None else (hidden, *self._rest)):
            return _read_logits(self._base.model, self._row, self._read_column, self._run)

    def _prefill(self) -> Any:
        """The model's own cache of everything left of the edited column."""
        batch, left = self._batch, slice(self._column)
        decoder: Any = self._base.decoder
        output = decoder(
            input_ids=batch.ids[:, left],
            attention_mask=batch.mask[:, left],
            position_ids=batch.positions[:, left],
            use_cache=True,
        )
        return returned_cache(output)

    def _run(self, module: Callable[..., Any], **arguments: Any) -> Any:
        batch, tail = self._batch, slice(self._column, None)
        own = copy.deepcopy(self._cache)  # a pass appends to it
        return module(
            input_ids=batch.ids[:, tail],
            attention_mask=batch.mask,
            position_ids=batch.positions[:, tail],
            use_cache=self._cache is not None,
            **{cache_name(getattr(module, "forward", module)): own},
            **arguments,
        )


def _recorded(base: Base, layer: int, run: Callable[[], object]) -> tuple[Tensor, tuple[Any, ...] | None]:
    """What the layer puts out in a run: hidden states (B, S, d_m), and what else if it is a tuple."""
    seen: list[Any] = []
    hook = base.decoder_layers[layer].register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    try:
        run()
    finally:
        hook.remove()
    if len(seen) != 1:
        raise TargetError(f"layer {layer} of {base.name} runs {len(seen)} times in a pass; expected once")
    states, *rest = seen[0] if isinstance(seen[0], tuple) else (seen[0],)
    if states.ndim != 3 or states.shape[-1] != base.hidden_size:
        raise TargetError(
            f"layer {layer} of {base.name} puts out {tuple(states.shape)}: expected one residual stream "
            f"(prompts, tokens, {base.hidden_size}), to which a target value can be added"
        )
    return states.detach(), tuple(rest) if isinstance(seen[0], tuple) else None


def _read_logits(model: Any, row: Tensor, column: Tensor, run: Callable[..., Any]) -> Tensor:
    """Logits (n, V) at (row, column), each (n,), of a run; the head runs on no other columns if it can."""
    kept, place = torch.unique(column, return_inverse=True)
    logits: Tensor
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        logits = run(model).logits
        return logits[row, column]
    logits = run(model, logits_to_keep=kept).logits  # on the CPU, for a head on any device
    return logits[row, place]

"""Repeated passes with one layer's output changed at one token of each prompt.

`Tail` computes only what such a change can affect. Positions left of the edited token never see the change,
so they are kept as a cache of keys, values and recurrent states. Layers up to the edited one do not depend on
it, so they are played back: during a pass, these layers return their recorded hidden states. The model's own
`forward` still builds masks, rotary embeddings and logits, so the same code works for every architecture.

Not every architecture can be continued in this way. Some continue a recurrent state by one token at a time
only, some treat padding on the left as text, and in some, later layers use keys of earlier ones. `open_pass`
therefore compares a tail with a whole pass first, and uses `WholePass` if they differ.
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
from moe_patch.targets.states import saving_states
from moe_patch.versions import cache_name, returned_cache

logger = logging.getLogger(__name__)

_unfit: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # models for which only whole passes are right


@dataclass(frozen=True, slots=True)
class Reads:
    """Where logits are needed. None of these places is left of its prompt's edited token."""

    row: Tensor  # (n,) number of a prompt
    index: Tensor  # (n,) number of a token in this prompt


class ChangedPass(ABC):
    """A batch of prompts that can be run with changes added to the output of one decoder layer."""

    start: Tensor  # (B, d_m) the layer's output at the edited tokens, without a change

    @abstractmethod
    def logits(self, change: Tensor) -> Tensor:
        """Logits (n, V) at the reads after adding `change` (B, d_m). They are differentiable in `change`."""

    @torch.no_grad()
    def unchanged(self) -> Tensor:
        """Logits (n, V) at the reads without a change."""
        return self.logits(torch.zeros_like(self.start))


def open_pass(
    base: Base, prompts: Sequence[Prompt], reads: Reads, layer: int, *, check: bool = True
) -> ChangedPass:
    """The cheapest pass that is right for this model.

    Args:
        base: the model.
        prompts: B prompts, each with its edited token.
        reads: n places where logits are needed.
        layer: decoder layer whose output will be changed.
        check: compare the tail with a whole pass, unless the model is already known to need whole passes.

    Raises:
        TargetError: the layer does not output one residual stream (B, S, d_m), or not exactly once in a pass.
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
        if apart <= max(1e-3, 16 * torch.finfo(tail.start.dtype).eps):  # rounding alone stays below this
            return tail
        reason = f"passes that continue from a cache give logits that are off by {apart:.1%}"
    logger.warning("%s: the target search uses whole passes, which are slower: %s", base.name, reason)
    _unfit.add(base.model)
    return whole


def plain_logits(base: Base, prompts: Sequence[Prompt], reads: Reads) -> Tensor:
    """Logits (n, V) at the reads of one ordinary forward pass over the prompts."""
    batch = pad_right(prompts, pad_token(base.tokenizer)).to(base.device)

    def run(model: Callable[..., Any], **arguments: Any) -> Any:
        return model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False, **arguments)

    return _read_logits(base.model, reads.row, reads.index, run)


def _distance(logits: Tensor, others: Tensor) -> float:
    """Mean relative distance of two sets of logits (n, V). A constant added to all logits is ignored."""
    expected, found = (x.float() - x.float().mean(-1, keepdim=True) for x in (logits, others))
    return float(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).mean())


class WholePass(ChangedPass):
    """Computes everything in every pass, and adds the change in a hook: slow, but right for every model."""

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
    """Runs only the layers above the edited one, and only from the edited tokens on."""

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
        """The model's own cache for everything left of the edited column."""
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
        with saving_states(own):
            return module(
                input_ids=batch.ids[:, tail],
                attention_mask=batch.mask,
                position_ids=batch.positions[:, tail],
                use_cache=self._cache is not None,
                **{cache_name(getattr(module, "forward", module)): own},
                **arguments,
            )


def _recorded(base: Base, layer: int, run: Callable[[], object]) -> tuple[Tensor, tuple[Any, ...] | None]:
    """The layer's output in a run: hidden states (B, S, d_m), and the rest if it is a tuple."""
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
            f"layer {layer} of {base.name} has output of shape {tuple(states.shape)}: expected one residual "
            f"stream (prompts, tokens, {base.hidden_size}), to which a target value can be added"
        )
    return states.detach(), tuple(rest) if isinstance(seen[0], tuple) else None


def _read_logits(model: Any, row: Tensor, column: Tensor, run: Callable[..., Any]) -> Tensor:
    """Logits (n, V) of a run at (row, column), each (n,). If possible, the head runs on no other columns."""
    kept, place = torch.unique(column, return_inverse=True)
    logits: Tensor
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        logits = run(model).logits
        return logits[row, column]
    logits = run(model, logits_to_keep=kept).logits  # on the CPU, for a head on any device
    return logits[row, place]

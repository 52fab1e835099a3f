"""What the experts of a base do with given tokens: their keys, their gates, and which of them are chosen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from moe_patch.base.experts import Handle, attach_delta, attach_tap
from moe_patch.base.model import Base
from moe_patch.errors import CaptureError

__all__ = [
    "ExpertCall",
    "Handle",
    "Observer",
    "Watch",
    "attach_delta",
    "capture_keys",
    "capture_routing",
    "observe_experts",
]


class Observer(Protocol):
    """Told once per expert that a forward pass hits, with the n (token, slot) pairs that went to it."""

    def __call__(self, expert: int, token: Tensor, slot: Tensor, key: Tensor, gate: Tensor) -> None:
        """`token` (n,) counts the batch's B*S tokens row by row, `slot` (n,) the K choices; key (n, d_k)."""


@dataclass(frozen=True, slots=True)
class ExpertCall:
    """What one layer did with N tokens; keys and scores only where they were asked for.

    `scores` are the router's own, before any choice: logits in most architectures, probabilities in some.
    They are None where the router returns nothing of that shape. A slot that reached no expert here names
    expert E, with gate 0.
    """

    keys: Tensor | None  # (N, K, d_k)
    gates: Tensor  # (N, K), as the router gave them
    experts: Tensor  # (N, K)
    scores: Tensor | None = None  # (N, E)


class Watch:
    """A running observation. `mask` (B*S,) bool says which tokens of a batch are reported; None says all."""

    def __init__(self, base: Base, last_layer: int) -> None:
        self.mask: Tensor | None = None
        self._base = base
        self._last = last_layer

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, only: Tensor | None = None
    ) -> None:
        """Run (B, S) tokens through the decoder as far as the last observed layer, without gradients.

        Padding is never reported; `only` (B, S) bool narrows further.
        """
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask  # (B, S)
        reported = real.bool() if only is None else real.bool() & only.to(real.device)
        self.mask = reported.reshape(-1)
        try:
            run_decoder(self._base, input_ids, real, self._last)
        finally:
            self.mask = None


@dataclass(slots=True)
class _MaskedTap:
    """Hands on to an observer what concerns the tokens in the watch's mask."""

    watch: Watch
    observer: Observer

    def begin(self, tokens: int) -> None:
        """Refuse a mask that was made for another batch."""
        if self.watch.mask is not None and len(self.watch.mask) != tokens:
            raise CaptureError(f"the mask is for {len(self.watch.mask)} tokens, but the experts got {tokens}")

    def __call__(self, expert: int, token: Tensor, slot: Tensor, key: Tensor, gate: Tensor) -> None:
        if self.watch.mask is None:
            self.observer(expert, token, slot, key, gate)
            return
        kept = self.watch.mask.to(token.device)[token].nonzero().squeeze(1)  # (n',)
        if len(kept):
            self.observer(expert, token[kept], slot[kept], key[kept], gate[kept])


@contextmanager
def observe_experts(base: Base, observers: Mapping[int, Observer]) -> Iterator[Watch]:
    """Tell `observers`, by layer, of the keys of every expert hit while the context lasts.

    Run batches with `watch.forward(input_ids, attention_mask)`, which leaves padding out and stops after the
    last observed layer; or run the model yourself, and set `watch.mask` where tokens are to be left out.
    """
    if not observers:
        raise CaptureError("name at least one layer to observe")
    layers = {index: base.layer(index) for index in observers}
    watch = Watch(base, max(layers))
    with ExitStack() as stack:
        for index, layer in layers.items():
            stack.enter_context(attach_tap(layer, _MaskedTap(watch, observers[index])))
        yield watch


def capture_keys(
    base: Base, input_ids: Tensor, attention_mask: Tensor | None, positions: Tensor, layers: Iterable[int]
) -> dict[int, ExpertCall]:
    """Keys, gates and experts at chosen positions of (B, S) tokens, by layer, in the order of `positions`.

    `positions` is (N, 2) rows and columns, or (B,) one column for each row. Raises CaptureError for a
    position on padding or outside the batch.
    """
    rows, columns = _rows_and_columns(positions, *input_ids.shape)  # (N,) each
    if attention_mask is not None and not bool(attention_mask[rows, columns].all()):
        raise CaptureError("a position to capture lies on padding")
    chosen = torch.zeros(input_ids.shape, dtype=torch.bool)
    chosen[rows, columns] = True
    recorders = {index: _Recorder(chosen, base.layer(index).num_experts, with_keys=True) for index in layers}
    with observe_experts(base, recorders) as watch:
        watch.forward(input_ids, attention_mask, chosen)
    return {index: recorder.at(rows, columns) for index, recorder in recorders.items()}


def capture_routing(
    base: Base, input_ids: Tensor, attention_mask: Tensor | None = None, layers: Iterable[int] | None = None
) -> dict[int, ExpertCall]:
    """Top-K experts, gates and router scores of every real token of (B, S), row by row, per layer.

    `layers` None means every MoE layer. Nothing is recomputed: gates are what the experts were called with.
    """
    chosen = torch.ones(input_ids.shape, dtype=torch.bool)
    if attention_mask is not None:
        chosen = attention_mask.bool().cpu()
    rows, columns = chosen.nonzero(as_tuple=True)
    layers = list(base.layers if layers is None else layers)
    recorders = {index: _Recorder(chosen, base.layer(index).num_experts, with_keys=False) for index in layers}
    with ExitStack() as stack:
        for index, recorder in recorders.items():
            stack.enter_context(_router_scores(base, index, recorder))
        stack.enter_context(observe_experts(base, recorders)).forward(input_ids, attention_mask, chosen)
    return {index: recorder.at(rows, columns) for index, recorder in recorders.items()}


class _Recorder:
    """An observer that keeps what it hears of the `chosen` (B, S) tokens, to be read as one ExpertCall."""

    def __init__(self, chosen: Tensor, num_experts: int, *, with_keys: bool) -> None:
        self.scores: Tensor | None = None  # (B*S, E)
        self._shape = chosen.shape
        self._place = chosen.reshape(-1).cumsum(0) - 1  # (B*S,) of each chosen token among them
        self._num_experts = num_experts
        self._with_keys = with_keys
        self._heard: list[tuple[Tensor, ...]] = []

    def __call__(self, expert: int, token: Tensor, slot: Tensor, key: Tensor, gate: Tensor) -> None:
        place = self._place.to(token.device)[token]
        heard = (place, slot, torch.full_like(place, expert), gate)
        self._heard.append((*heard, key) if self._with_keys else heard)

    def at(self, rows: Tensor, columns: Tensor) -> ExpertCall:
        """What was heard at chosen tokens (rows[i], columns[i]), each of which may be named twice."""
        if not self._heard:
            raise CaptureError("no expert was reached by the chosen tokens")
        place, slot, expert, gate, *keys = (torch.cat(parts) for parts in zip(*self._heard, strict=True))
        token = rows * self._shape[1] + columns
        asked = self._place[token].to(place.device)  # (N,)
        shape = (int(self._place[-1]) + 1, int(slot.max()) + 1)

        def spread(heard: Tensor, missing: int) -> Tensor:
            table = heard.new_full((*shape, *heard.shape[1:]), missing)
            table[place, slot] = heard
            return table[asked]

        return ExpertCall(
            keys=spread(keys[0], 0) if keys else None,
            gates=spread(gate, 0),
            experts=spread(expert, self._num_experts),
            scores=None if self.scores is None else self.scores[token.to(self.scores.device)],
        )


@contextmanager
def _router_scores(base: Base, index: int, recorder: _Recorder) -> Iterator[None]:
    """Within, `recorder` gets what the layer's router returns first, if that is (N, E) scores."""
    layer = base.layer(index)
    block = base.model.get_submodule(layer.name.rpartition(".")[0])

    def keep(router: object, arguments: object, output: object) -> None:
        scores = output[0] if isinstance(output, tuple) else output
        if isinstance(scores, Tensor) and scores.shape[-1] == layer.num_experts:
            recorder.scores = scores.detach().reshape(-1, layer.num_experts)

    routers = [child for name, child in block.named_children() if name in ("gate", "router")]
    hooks = [router.register_forward_hook(keep) for router in routers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Enough(Exception):  # noqa: N818 - nothing went wrong: it ends a forward pass whose rest nobody needs
    pass


def run_decoder(base: Base, input_ids: Tensor, attention_mask: Tensor, last_layer: int) -> None:
    """Run (B, S) tokens through the decoder's layers up to `last_layer`, without gradients or a cache."""
    ids, mask = input_ids.to(base.device), attention_mask.to(base.device)
    with _ending_after(base, last_layer), torch.no_grad():
        base.decoder(input_ids=ids, attention_mask=mask, use_cache=False)


@contextmanager
def _ending_after(base: Base, layer: int) -> Iterator[None]:
    """Within, a forward pass of the decoder ends quietly where the layer after `layer` would begin."""
    if layer + 1 >= base.num_layers:
        yield
        return

    def enough(*_: object) -> None:
        raise _Enough

    hook = base.decoder_layers[layer + 1].register_forward_pre_hook(enough)
    try:
        yield
    except _Enough:
        pass
    finally:
        hook.remove()


def _rows_and_columns(positions: Tensor, batch: int, length: int) -> tuple[Tensor, Tensor]:
    """(N,) rows and (N,) columns inside (batch, length)."""
    positions = positions.cpu()
    if positions.dim() == 1 and len(positions) == batch:
        positions = torch.stack((torch.arange(batch), positions), dim=1)
    if positions.dim() != 2 or positions.shape[1] != 2:
        raise CaptureError(f"positions must be (N, 2) or ({batch},), not {tuple(positions.shape)}")
    rows, columns = positions.unbind(1)
    if bool(((rows < 0) | (rows >= batch) | (columns < 0) | (columns >= length)).any()):
        raise CaptureError(f"a position lies outside the batch of {batch} rows of {length} tokens")
    return rows, columns

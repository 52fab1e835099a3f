"""Observing the experts of a base on given tokens: keys, gates, and which experts the router chose."""

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
from moe_patch.solve.finite import check_finite, check_scores, tokens_text

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
    """Called once for each expert that a forward pass reaches, with the n (token, slot) pairs sent to it."""

    def __call__(self, expert: int, token: Tensor, slot: Tensor, key: Tensor, gate: Tensor) -> None:
        """Take one expert's pairs.

        Args:
            expert: its number.
            token: (n,) indices among the batch's B*S tokens, row by row.
            slot: (n,) which of a token's K choices the expert is.
            key: (n, d_k).
            gate: (n,).
        """


@dataclass(frozen=True, slots=True)
class ExpertCall:
    """What one layer did with N tokens.

    The scores are the router's output before it chooses: logits in most architectures, probabilities in some.
    """

    keys: Tensor | None  # (N, K, d_k); None unless asked for
    gates: Tensor  # (N, K), as the experts were called with; 0 where a slot reached no expert here
    experts: Tensor  # (N, K); E where a slot reached no expert here
    scores: Tensor | None = None  # (N, E); None unless asked for, or if the router returns no such shape


class Watch:
    """A running observation."""

    def __init__(self, base: Base, last_layer: int) -> None:
        self.mask: Tensor | None = None  # (B*S,) bool, which tokens of a batch are reported; None: all
        self._base = base
        self._last = last_layer

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, only: Tensor | None = None
    ) -> None:
        """Run (B, S) tokens through the decoder up to the last observed layer, without gradients.

        Padding is never reported. If `only` (B, S) bool is given, no other tokens are reported.
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
    """Passes the pairs of the tokens in the watch's mask on to an observer."""

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
    """Call `observers`, given by layer, for every expert that is reached inside the block.

    Run batches with `watch.forward(input_ids, attention_mask)`, which leaves out padding and stops after the
    last observed layer. Or run the model yourself, and set `watch.mask` to leave out tokens.

    Raises:
        CaptureError: `observers` is empty.
        ModelError: a layer is dense or out of range.
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

    Args:
        base: the model.
        input_ids: (B, S).
        attention_mask: (B, S), zero for padding; None if there is no padding.
        positions: (N, 2) rows and columns, or (B,) one column for each row.
        layers: decoder indices of MoE layers.

    Raises:
        CaptureError: a position is on padding or outside the batch, or no expert was reached.
        ModelError: a layer is dense or out of range.
        NumericalError: a key or a gate is not finite.
    """
    rows, columns = _rows_and_columns(positions, *input_ids.shape)  # (N,) each
    if attention_mask is not None and not bool(attention_mask[rows, columns].all()):
        raise CaptureError("a position to capture is on padding")
    chosen = torch.zeros(input_ids.shape, dtype=torch.bool)
    chosen[rows, columns] = True
    recorders = {index: _Recorder(chosen, base.layer(index).num_experts, with_keys=True) for index in layers}
    with observe_experts(base, recorders) as watch:
        watch.forward(input_ids, attention_mask, chosen)
    calls = {index: recorder.at(rows, columns) for index, recorder in recorders.items()}
    return _checked(base, calls, input_ids[rows.to(input_ids.device)])


def capture_routing(
    base: Base, input_ids: Tensor, attention_mask: Tensor | None = None, layers: Iterable[int] | None = None
) -> dict[int, ExpertCall]:
    """Top-K experts, gates and router scores of every token of (B, S) but padding, row by row, by layer.

    `layers` None stands for every MoE layer. Nothing is recomputed: the gates are those with which the
    experts were called.

    Raises:
        CaptureError: no expert was reached.
        ModelError: a layer is dense or out of range.
        NumericalError: a gate or a score is not finite.
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
    calls = {index: recorder.at(rows, columns) for index, recorder in recorders.items()}
    return _checked(base, calls, input_ids[rows.to(input_ids.device)])


def _checked(base: Base, calls: dict[int, ExpertCall], texts: Tensor) -> dict[int, ExpertCall]:
    """The calls, once their numbers are known to be finite; (N, S) ids are the text of each token."""
    for index, call in sorted(calls.items()):

        def place(token: int, call: ExpertCall = call, index: int = index) -> str:
            reached = ", ".join(str(expert) for expert in call.experts[token].tolist())
            return f"at layer {index}, experts {reached}, in {tokens_text(base.tokenizer, texts[token])}"

        if call.keys is not None:
            check_finite(call.keys, "the keys", place)
        check_finite(call.gates, "the gates", place)
        if call.scores is not None:
            check_scores(call.scores, "the router's scores", place)
    return calls


class _Recorder:
    """An observer that records the `chosen` (B, S) tokens and returns them as one ExpertCall."""

    def __init__(self, chosen: Tensor, num_experts: int, *, with_keys: bool) -> None:
        self.scores: Tensor | None = None  # (B*S, E)
        self._shape = chosen.shape
        self._place = chosen.reshape(-1).cumsum(0) - 1  # (B*S,) index of each chosen token among the chosen
        self._num_experts = num_experts
        self._with_keys = with_keys
        self._heard: list[tuple[Tensor, ...]] = []

    def __call__(self, expert: int, token: Tensor, slot: Tensor, key: Tensor, gate: Tensor) -> None:
        place = self._place.to(token.device)[token]
        heard = (place, slot, torch.full_like(place, expert), gate)
        self._heard.append((*heard, key) if self._with_keys else heard)

    def at(self, rows: Tensor, columns: Tensor) -> ExpertCall:
        """What was recorded at the chosen tokens (rows[i], columns[i]). A token may be named twice."""
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
    """Inside the block, `recorder` gets the first output of the layer's router, if it is (N, E) scores."""
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


class _Enough(Exception):  # noqa: N818 - no error: it ends a forward pass whose rest is not needed
    pass


def run_decoder(
    base: Base, input_ids: Tensor, attention_mask: Tensor, last_layer: int, *, gradients: bool = False
) -> None:
    """Run (B, S) tokens through the decoder's layers up to `last_layer`, without a cache."""
    ids, mask = input_ids.to(base.device), attention_mask.to(base.device)
    with _ending_after(base, last_layer), torch.set_grad_enabled(gradients):
        base.decoder(input_ids=ids, attention_mask=mask, use_cache=False)


@contextmanager
def _ending_after(base: Base, layer: int) -> Iterator[None]:
    """Inside the block, a forward pass of the decoder ends silently before the layer after `layer`."""
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
        raise CaptureError(f"a position is outside the batch of {batch} rows of {length} tokens")
    return rows, columns

"""One experts implementation for every architecture: it sees keys, gates and routing, and adds hooked deltas.

Transformers calls the experts of all its MoE models as `experts(hidden, top_k_index, top_k_weights)` and lets the function that
computes them be chosen by name. While something is observed or attached, the configs of the modules concerned name the
function below; modules nobody asked about go on to the implementation they had. When the last context ends, so does the name.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from moe_patch.errors import CaptureError
from moe_patch.model import Base, MoELayer

logger = logging.getLogger(__name__)

IMPLEMENTATION = "moe_patch"


class Observer(Protocol):
    """Called once per hit expert and experts call, with the n (token, slot) pairs that the router sent to it."""

    def __call__(self, expert: int, token: Tensor, slot: Tensor, key: Tensor, gate: Tensor) -> None:
        """`token`, `slot` (n,) int64 index the flattened (B*S, K) routing; `key` (n, d_k); `gate` (n,)."""
        ...


class Delta(Protocol):
    """What `attach` needs of a layer's delta: expert j adds sum over its rows i of outer(left[fact[i]], right[i])."""

    @property
    def left(self) -> Tensor: ...  # (R, d_m)
    @property
    def right(self) -> Tensor: ...  # (nnz, d_k)
    @property
    def expert(self) -> Tensor: ...  # (nnz,) sorted
    @property
    def fact(self) -> Tensor: ...  # (nnz,) index into left


@dataclass(frozen=True, slots=True)
class ExpertCall:
    """The routing of N tokens by one layer, and the keys of the experts they reached where they were asked for."""

    keys: Tensor | None  # (N, K, d_k)
    gates: Tensor  # (N, K), as the router gave them
    experts: Tensor  # (N, K)
    logits: Tensor | None = None  # (N, E), as the router returned them, where it returns any


@dataclass(eq=False, slots=True)
class _LiveDelta:
    """A delta ready to run: its rows by expert, on the module's device."""

    rows: dict[int, tuple[Tensor, Tensor]]  # expert -> right (n, d_k), left (n, d_m)

    def __call__(self, expert: int, key: Tensor) -> Tensor | None:
        """(n, d_m) fp32 to add to the expert's output for `key` (n, d_k), or None."""
        if expert not in self.rows:
            return None
        right, left = self.rows[expert]
        return (key.to(right.dtype) @ right.T) @ left  # (n, rows) @ (rows, d_m)


@dataclass(eq=False, slots=True)
class _Tap:
    """One observer of one module; it hears of the tokens in the watch's mask only."""

    watch: Watch
    observer: Observer

    def expect(self, tokens: int) -> None:
        if self.watch.mask is not None and len(self.watch.mask) != tokens:
            raise CaptureError(f"the mask is for {len(self.watch.mask)} tokens, but the experts got {tokens}")

    def __call__(self, expert: int, token: Tensor, slot: Tensor, key: Tensor, gate: Tensor) -> None:
        if self.watch.mask is not None:
            kept = self.watch.mask.to(token.device)[token]
            if not bool(kept.any()):
                return
            token, slot, key, gate = token[kept], slot[kept], key[kept], gate[kept]
        self.observer(expert, token, slot, key, gate)


@dataclass(slots=True)
class _State:
    """What goes on in one experts module besides its own work."""

    taps: list[_Tap] = field(default_factory=list)
    deltas: list[_LiveDelta] = field(default_factory=list)

    @property
    def idle(self) -> bool:
        return not (self.taps or self.deltas)


@dataclass(slots=True)
class _Taken:
    """A config that names our implementation for now, and what it named before."""

    config: Any
    former: str | None
    modules: int = 0


_states: weakref.WeakKeyDictionary[nn.Module, _State] = weakref.WeakKeyDictionary()
_taken: dict[int, _Taken] = {}  # by id of the config, which the value keeps alive


def _state(experts: Any) -> _State:
    """The module's state, made on first use, when its config starts to name our implementation."""
    if experts not in _states:
        config = experts.config
        if id(config) not in _taken:
            if config._experts_implementation == "deepgemm_megamoe":
                raise CaptureError(
                    "deepgemm_megamoe rearranges the weights: open the model with another implementation"
                )
            _taken[id(config)] = _Taken(config, config._experts_implementation)
            config._experts_implementation = IMPLEMENTATION
        _taken[id(config)].modules += 1
        _states[experts] = _State()
    return _states[experts]


def _release(experts: Any) -> None:
    """Forget an idle module; with the last one of its config, restore the implementation that was there before."""
    if not _states[experts].idle:
        return
    del _states[experts]
    taken = _taken[id(experts.config)]
    taken.modules -= 1
    if taken.modules:
        return
    del _taken[id(experts.config)]
    if taken.config._experts_implementation == IMPLEMENTATION:
        taken.config._experts_implementation = taken.former
    else:
        now = taken.config._experts_implementation
        logger.warning(
            "the experts implementation was set to %r meanwhile: patches and captures stopped there", now
        )


def experts_forward(experts: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """The experts of one MoE layer: hidden (N, d_m), routing (N, K) -> (N, d_m), in the dtype of `hidden`.

    Tokens are sorted by expert once; only experts that are hit run. An index of E or more is the sentinel of expert
    parallelism and contributes nothing.
    """
    state = _states.get(experts)
    if state is None:
        return _former(experts)(experts, hidden, top_k_index, top_k_weights)
    for tap in state.taps:
        tap.expect(len(hidden))
    num_experts, slots = experts.down_proj.shape[0], top_k_index.shape[-1]
    by_expert, order = top_k_index.reshape(-1).sort(stable=True)  # (N*K,)
    counts = torch.bincount(by_expert, minlength=num_experts)[:num_experts].tolist()
    order = order[: sum(counts)]  # sentinels sort last
    token, slot = order // slots, order % slots  # (P,) each, P routed pairs
    gate = top_k_weights.reshape(-1)[order]  # (P,)
    outputs = []
    start = 0
    for expert, (count, inputs) in enumerate(zip(counts, hidden[token].split(counts), strict=True)):
        if not count:
            continue
        pairs = slice(start, start + count)
        start += count
        key = _key(experts, expert, inputs)  # (n, d_k)
        for tap in state.taps:
            tap(expert, token[pairs], slot[pairs], key, gate[pairs])
        output = _down(experts, expert, key)  # (n, d_m)
        for delta in state.deltas:
            added = delta(expert, key)
            output = output if added is None else output + added.to(output.dtype)
        outputs.append(experts.post_expert_norm(output) if experts.has_post_expert_norm else output)
    if not outputs:
        return torch.zeros_like(hidden)
    mixed = torch.cat(outputs) * gate[:, None]  # (P, d_m)
    return torch.zeros_like(hidden).index_add(0, token, mixed.to(hidden.dtype))


ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, experts_forward)


def _former(experts: Any) -> Any:
    taken = _taken.get(id(experts.config))
    if taken is None:
        raise CaptureError("this model was copied while a patch or capture was on: end it first, then copy")
    return ALL_EXPERTS_FUNCTIONS.get_interface(taken.former, type(experts).forward.__wrapped__)


def _key(experts: Any, expert: int, inputs: Tensor) -> Tensor:
    """(n, d_m) -> (n, d_k): what enters the expert's down projection."""
    name = "gate_up_proj" if experts.has_gate else "up_proj"
    raised = _linear(experts, name, expert, inputs)
    key: Tensor = experts._apply_gate(raised) if experts.has_gate else experts.act_fn(raised)
    return key


def _down(experts: Any, expert: int, key: Tensor) -> Tensor:
    return _linear(experts, "down_proj", expert, key)


def _linear(experts: Any, name: str, expert: int, inputs: Tensor) -> Tensor:
    weight = getattr(experts, name)[expert]
    bias = getattr(experts, f"{name}_bias")[expert] if experts.has_bias else None
    return F.linear(inputs, weight.T if experts.is_transposed else weight, bias)


class Handle:
    """Something switched on; `remove` switches it off, once, in any order among others. A context manager too."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def remove(self) -> None:
        self._stack.close()

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


def attach(layer: MoELayer, delta: Delta) -> Handle:
    """Add `delta` to the layer's down projections inside the forward pass, leaving the weights as they are.

    Works under `generate` and autograd; several deltas on one layer add up. Raises CaptureError where shapes do not fit.
    """
    _check_shapes(layer, delta)
    device = layer.experts.down_proj.device
    if layer.offloaded:
        device = torch.device(layer.experts._hf_hook.execution_device)
    experts, counts = torch.unique_consecutive(delta.expert.cpu().long(), return_counts=True)
    right = delta.right.to(device).split(counts.tolist())
    left = delta.left.to(device)[delta.fact.to(device).long()].split(counts.tolist())
    live = _LiveDelta(dict(zip(experts.tolist(), zip(right, left, strict=True), strict=True)))
    return _switch(layer.experts, "deltas", live)


def _check_shapes(layer: MoELayer, delta: Delta) -> None:
    if delta.left.shape[-1] != layer.d_model or delta.right.shape[-1] != layer.d_key:
        found, expected = (delta.left.shape[-1], delta.right.shape[-1]), (layer.d_model, layer.d_key)
        raise CaptureError(f"{layer.name}: a delta of widths (d_m, d_k) = {found} does not fit {expected}")
    if len(delta.expert) and not 0 <= int(delta.expert.min()) <= int(delta.expert.max()) < layer.num_experts:
        raise CaptureError(f"{layer.name} has experts 0 to {layer.num_experts - 1}; the delta names others")


def _switch(experts: nn.Module, kind: str, entry: Any) -> Handle:
    """Put `entry` into a list of the module's state until the handle is removed."""
    entries = getattr(_state(experts), kind)
    entries.append(entry)

    def off() -> None:
        entries[:] = [other for other in entries if other is not entry]
        _release(experts)

    stack = ExitStack()
    stack.callback(off)
    return Handle(stack)


class Watch:
    """A running observation. While `mask` (B*S,) is set, only its true tokens are reported; `forward` sets it itself."""

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
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        real = (
            attention_mask.bool() if only is None else attention_mask.bool() & only.to(attention_mask.device)
        )
        device, former = self._base.device, self.mask
        self.mask = real.reshape(-1)
        try:
            with _ending_after(self._base, self._last), torch.no_grad():
                decoder = self._base.model.get_decoder()
                decoder(
                    input_ids=input_ids.to(device), attention_mask=attention_mask.to(device), use_cache=False
                )
        finally:
            self.mask = former


class _Enough(Exception):
    """Raised into a forward pass whose rest nobody needs."""


@contextmanager
def _ending_after(base: Base, layer: int) -> Iterator[None]:
    """Within, a forward pass of the decoder ends quietly once `layer` is done."""
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


@contextmanager
def observe(base: Base, observers: Mapping[int, Observer]) -> Iterator[Watch]:
    """Tell `observers`, by layer, of every expert's keys while the context lasts.

    Run batches with `watch.forward(input_ids, attention_mask)`, which leaves padding out and stops after the last observed
    layer; or run the model yourself, and set `watch.mask` where tokens are to be left out.
    """
    if not observers:
        raise CaptureError("name at least one layer to observe")
    layers = {index: base.layer(index) for index in observers}
    watch = Watch(base, max(layers))
    with ExitStack() as stack:
        for index, layer in layers.items():
            stack.enter_context(_switch(layer.experts, "taps", _Tap(watch, observers[index])))
        yield watch


class _Recorder:
    """An observer that keeps what it hears, to be read as one ExpertCall over the n tokens that `number` counts."""

    def __init__(self, number: Tensor, with_keys: bool) -> None:
        self._number = number  # (B*S,) place of each reported token among the reported
        self._with_keys = with_keys
        self._heard: list[tuple[Tensor, ...]] = []

    def __call__(self, expert: int, token: Tensor, slot: Tensor, key: Tensor, gate: Tensor) -> None:
        row = self._number.to(token.device)[token]
        heard = (row, slot, torch.full_like(row, expert), gate)
        self._heard.append((*heard, key) if self._with_keys else heard)

    def call(self, tokens: int, missing: int) -> ExpertCall:
        """(tokens, K) routing and keys; slots that reached no expert name expert `missing` with gate 0."""
        row, slot, expert, gate, *keys = (torch.cat(part) for part in zip(*self._heard, strict=True))
        shape = (tokens, int(slot.max()) + 1)
        experts = expert.new_full(shape, missing)
        experts[row, slot] = expert
        gates = gate.new_zeros(shape)
        gates[row, slot] = gate
        if not keys:
            return ExpertCall(None, gates, experts)
        stacked = keys[0].new_zeros(*shape, keys[0].shape[-1])  # (tokens, K, d_k)
        stacked[row, slot] = keys[0]
        return ExpertCall(stacked, gates, experts)


def _record(
    base: Base,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    chosen: Tensor,
    layers: Iterable[int],
    with_keys: bool,
) -> dict[int, ExpertCall]:
    """One forward pass; what the layers did with the `chosen` (B, S) tokens, in row-major order."""
    number = chosen.reshape(-1).cumsum(0) - 1
    recorders = {index: _Recorder(number, with_keys) for index in layers}
    with observe(base, recorders) as watch:
        watch.forward(input_ids, attention_mask, chosen)
    tokens = int(chosen.sum())
    return {
        index: recorder.call(tokens, base.layer(index).num_experts) for index, recorder in recorders.items()
    }


def capture_keys(
    base: Base, input_ids: Tensor, attention_mask: Tensor | None, positions: Tensor, layers: Iterable[int]
) -> dict[int, ExpertCall]:
    """Keys, gates and experts at chosen positions of (B, S) tokens, per layer and in the order of `positions`.

    `positions` is (N, 2) rows and columns, or (B,) one column for each row. CaptureError for one on padding or outside.
    """
    rows, columns = _rows_and_columns(positions, *input_ids.shape)
    if attention_mask is not None and not bool(attention_mask[rows, columns].all()):
        raise CaptureError("a position to capture lies on padding")
    chosen = torch.zeros(input_ids.shape, dtype=torch.bool)
    chosen[rows, columns] = True
    place = (chosen.reshape(-1).cumsum(0) - 1).reshape(chosen.shape)[
        rows, columns
    ]  # (N,): one may be asked for twice
    calls = _record(base, input_ids, attention_mask, chosen, layers, with_keys=True)
    return {
        index: ExpertCall(call.keys[place.to(call.keys.device)], call.gates[place], call.experts[place])
        for index, call in calls.items()
        if call.keys is not None
    }


def capture_routing(
    base: Base, input_ids: Tensor, attention_mask: Tensor | None = None, layers: Iterable[int] | None = None
) -> dict[int, ExpertCall]:
    """Top-K experts and gates of every real token of (B, S), row by row, per layer; all MoE layers unless named."""
    chosen = (
        torch.ones_like(input_ids, dtype=torch.bool)
        if attention_mask is None
        else attention_mask.bool().cpu()
    )
    return _record(
        base, input_ids, attention_mask, chosen, base.layers if layers is None else layers, with_keys=False
    )


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

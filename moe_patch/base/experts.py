"""One experts implementation for every architecture, which can tell of keys and add hooked deltas.

Transformers calls the experts of all its MoE models as `experts(hidden, top_k_index, top_k_weights)` and lets
the function that computes them be chosen by name in a config. While a module is observed or has a delta
attached, its config names `experts_forward`; modules of that config that nobody asked about go on to the
implementation they had. When the last handle is removed, the config names again what it named before.
"""

from __future__ import annotations

import logging
import weakref
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from moe_patch.base.moe import MoELayer
from moe_patch.errors import CaptureError
from moe_patch.patch.rows import Rows
from moe_patch.versions import norm_follows

logger = logging.getLogger(__name__)

IMPLEMENTATION = "moe_patch"


class Tap(Protocol):
    """Listens to one experts module."""

    def begin(self, tokens: int) -> None:
        """An experts call over this many flattened tokens (B*S) starts."""

    def __call__(self, expert: int, token: Tensor, slot: Tensor, key: Tensor, gate: Tensor) -> None:
        """The n (token, slot) pairs that went to `expert`: token, slot and gate (n,), key (n, d_k)."""


class Delta(Protocol):
    """What `attach_delta` needs.

    Expert j adds outer(left[rows.fact[i]], rows.value[i]) for each of its rows i.
    """

    @property
    def left(self) -> Tensor:
        """(R, d_m)."""

    @property
    def rows(self) -> Rows:
        """(nnz, d_k), numbered as `left` is."""


class Handle:
    """Something switched on; `remove`, or leaving a `with`, switches it off, in any order among others."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def remove(self) -> None:
        """Switch off; a second call does nothing."""
        self._stack.close()

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


@dataclass(eq=False, slots=True)
class _LiveDelta:
    """A delta ready to run: right (n, d_k) and left (n, d_m) rows of each expert, on the module's device."""

    rows: dict[int, tuple[Tensor, Tensor]]

    def __call__(self, expert: int, key: Tensor) -> Tensor | None:
        """What to add (n, d_m) to the expert's output for `key` (n, d_k), or None."""
        if expert not in self.rows:
            return None
        right, left = self.rows[expert]
        return (key.to(right.dtype) @ right.T) @ left  # (n, rows) @ (rows, d_m)


@dataclass(slots=True)
class _ModuleState:
    """What goes on in one experts module besides its own work."""

    taps: list[Tap] = field(default_factory=list)
    deltas: list[_LiveDelta] = field(default_factory=list)


@dataclass(slots=True)
class _ReplacedConfig:
    """A config that names our implementation for now, and what it named before."""

    config: Any
    former: str | None
    modules: int = 0


_states: weakref.WeakKeyDictionary[nn.Module, _ModuleState] = weakref.WeakKeyDictionary()
_replaced: dict[int, _ReplacedConfig] = {}  # by id of the config, which the value keeps alive


def attach_delta(layer: MoELayer, delta: Delta) -> Handle:
    """Add `delta` to the layer's down projections inside the forward pass, leaving the weights as they are.

    Works under `generate` and autograd, also for a delta that requires gradients; several deltas add up. The
    products are taken in the wider of the delta's dtype and the weights'. Raises CaptureError where widths or
    experts do not fit.
    """
    check_fit(layer, delta)
    rows = delta.rows
    dtype = torch.promote_types(rows.value.dtype, layer.dtype)
    experts, counts = torch.unique_consecutive(rows.expert.cpu(), return_counts=True)
    right = torch.split(rows.value.to(layer.device, dtype), counts.tolist())
    left_of_row = delta.left.to(layer.device, dtype)[rows.fact.to(layer.device)]  # (nnz, d_m)
    left = torch.split(left_of_row, counts.tolist())
    live = _LiveDelta(dict(zip(experts.tolist(), zip(right, left, strict=True), strict=True)))
    return _switch_on(layer.experts, _acquire(layer.experts).deltas, live)


def check_fit(layer: MoELayer, delta: Delta) -> None:
    """Raise CaptureError unless the delta has the layer's widths and names experts that it has."""
    found, expected = (delta.left.shape[-1], delta.rows.value.shape[-1]), (layer.d_model, layer.d_key)
    if found != expected:
        raise CaptureError(f"{layer.name}: a delta of widths (d_m, d_k) = {found} does not fit {expected}")
    expert = delta.rows.expert
    if len(expert) and not 0 <= int(expert[0]) <= int(expert[-1]) < layer.num_experts:  # they ascend
        raise CaptureError(f"{layer.name} has experts 0 to {layer.num_experts - 1}; the delta names others")


def attach_tap(layer: MoELayer, tap: Tap) -> Handle:
    """Let `tap` hear of every call of the layer's experts."""
    return _switch_on(layer.experts, _acquire(layer.experts).taps, tap)


def experts_forward(experts: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """The experts of one layer: hidden (N, d_m) and routing (N, K) to (N, d_m), in the dtype of `hidden`.

    Tokens are sorted by expert once, and only experts that are hit run. As in transformers' default
    implementation, a token's experts are summed in at least fp32, rounded once, and the same on every run. An
    index of E or more is expert parallelism's sentinel for an expert elsewhere and contributes nothing.
    """
    state = _states.get(experts)
    if state is None:
        elsewhere: Tensor = _former(experts)(experts, hidden, top_k_index, top_k_weights)
        return elsewhere
    for tap in state.taps:
        tap.begin(len(hidden))
    num_experts, slots = experts.down_proj.shape[0], top_k_index.shape[-1]
    by_expert, order = top_k_index.reshape(-1).sort(stable=True)  # (N*K,)
    counts = torch.bincount(by_expert, minlength=num_experts)[:num_experts].tolist()
    order = order[: sum(counts)]  # (P,) routed pairs: sentinels sort last
    token, slot = order // slots, order % slots  # (P,)
    gates = torch.split(top_k_weights.reshape(-1).index_select(0, order), counts)  # E times (n,)
    inputs = torch.split(hidden.index_select(0, token), counts)  # E times (n, d_m); one split is one gradient
    outputs, end = [], 0
    for expert, count in enumerate(counts):
        if not count:
            continue
        pairs, end = slice(end, end + count), end + count
        key = _key(experts, expert, inputs[expert])  # (n, d_k)
        for tap in state.taps:
            tap(expert, token[pairs], slot[pairs], key, gates[expert])
        output = _linear(experts, "down_proj", expert, key)  # (n, d_m)
        for delta in state.deltas:
            added = delta(expert, key)
            output = output if added is None else output + added.to(output.dtype)
        output = experts.post_expert_norm(output) if norm_follows(experts) else output
        outputs.append(output * gates[expert][:, None])
    outputs.append(hidden.new_zeros(1, hidden.shape[-1]))  # the last row is what a sentinel adds
    return _sum_by_token(torch.cat(outputs), order, top_k_index).to(hidden.dtype)


def _sum_by_token(outputs: Tensor, order: Tensor, top_k_index: Tensor) -> Tensor:
    """Outputs (P + 1, d_m), row i of pair `order[i]` and the last one zero, to (N, d_m).

    Each token's pairs are gathered by expert, as eager adds them. Scattering them instead would add them up
    in an order of its own on a GPU.
    """
    tokens, slots = top_k_index.shape
    rank = top_k_index.argsort(dim=1, stable=True).argsort(dim=1).reshape(-1)[order]  # (P,) below K
    source = order.new_full((tokens * slots,), len(order))  # (N*K,) rows of outputs
    source[order // slots * slots + rank] = torch.arange(len(order), device=order.device)
    return outputs.index_select(0, source).view(tokens, slots, -1).sum(1)


ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, experts_forward)


def _key(experts: Any, expert: int, inputs: Tensor) -> Tensor:
    """(n, d_m) to (n, d_k): what enters the expert's down projection, by the module's own activation."""
    if experts.has_gate:
        gated: Tensor = experts._apply_gate(_linear(experts, "gate_up_proj", expert, inputs))
        return gated
    raised: Tensor = experts.act_fn(_linear(experts, "up_proj", expert, inputs))
    return raised


def _linear(experts: Any, name: str, expert: int, inputs: Tensor) -> Tensor:
    weight = getattr(experts, name)[expert]
    raised = functional.linear(inputs, weight.T if experts.is_transposed else weight)
    # the bias is not fused into the product: in half precision that would round once less than eager does
    return raised + getattr(experts, f"{name}_bias")[expert] if experts.has_bias else raised


def _former(experts: Any) -> Any:
    """The implementation that the module's config named before ours."""
    taken = _replaced.get(id(experts.config))
    if taken is None:
        raise CaptureError(
            "this model was copied while it was patched or observed: end that first, then copy"
        )
    return ALL_EXPERTS_FUNCTIONS.get_interface(taken.former or "eager", type(experts).forward.__wrapped__)


def _switch_on(experts: nn.Module, entries: list[Any], entry: Any) -> Handle:
    """Keep `entry` in a list of the module's state until the handle is removed."""
    entries.append(entry)

    def switch_off() -> None:
        entries[:] = [other for other in entries if other is not entry]
        _release(experts)

    stack = ExitStack()
    stack.callback(switch_off)
    return Handle(stack)


def _acquire(experts: Any) -> _ModuleState:
    """The module's state; made on first use, when its config comes to name our implementation."""
    if experts not in _states:
        config = experts.config
        if id(config) not in _replaced:
            if config._experts_implementation == "deepgemm_megamoe":
                raise CaptureError(
                    "deepgemm_megamoe rearranges expert weights: open the model with grouped_mm"
                )
            _replaced[id(config)] = _ReplacedConfig(config, config._experts_implementation)
            config._experts_implementation = IMPLEMENTATION
        _replaced[id(config)].modules += 1
        _states[experts] = _ModuleState()
    return _states[experts]


def _release(experts: Any) -> None:
    """Forget an idle module; with the last one of its config, restore what the config named before."""
    state = _states[experts]
    if state.taps or state.deltas:
        return
    del _states[experts]
    taken = _replaced[id(experts.config)]
    taken.modules -= 1
    if taken.modules:
        return
    del _replaced[id(experts.config)]
    if taken.config._experts_implementation != IMPLEMENTATION:
        chosen = taken.config._experts_implementation
        logger.warning(
            "the experts implementation became %r meanwhile: patches stopped working there", chosen
        )
        return
    taken.config._experts_implementation = taken.former

"""One experts implementation for every architecture, which reports keys and adds hooked deltas.

Transformers calls the experts of all its MoE models as `experts(hidden, top_k_index, top_k_weights)`. A name
in the config chooses the function that computes them. While a module is observed or has a delta attached, its
config names `experts_forward`. Other modules of the same config are passed on to the implementation that they
had. When the last handle is removed, the config gets its former name back.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from moe_patch.base.moe import MoELayer
from moe_patch.errors import CaptureError
from moe_patch.patch.dense import Dense
from moe_patch.patch.rows import Rows
from moe_patch.versions import norm_follows

logger = logging.getLogger(__name__)

IMPLEMENTATION = "moe_patch"


class Tap(Protocol):
    """Observes one experts module."""

    def begin(self, tokens: int) -> None:
        """Called when the module is called, with its number of flattened tokens B*S."""

    def __call__(self, expert: int, token: Tensor, slot: Tensor, key: Tensor, gate: Tensor) -> None:
        """Called with the n (token, slot) pairs sent to `expert`: token, slot and gate (n,), key (n, d_k)."""


class Delta(Protocol):
    """What `attach_delta` needs of a delta.

    The delta of expert j is the sum of outer(left[rows.fact[i]], rows.value[i]) over its rows i, and of its
    matrix in `dense`.
    """

    @property
    def left(self) -> Tensor:
        """(R, d_m)."""

    @property
    def rows(self) -> Rows:
        """(nnz, d_k) rows, whose `fact` is an index into `left`."""

    @property
    def dense(self) -> Dense | None:
        """(n, d_m, d_k) matrices of some experts; None if there are none."""

    def experts(self) -> list[int]:
        """The experts that it changes, in ascending order."""


class Handle:
    """Something that is switched on. `remove`, or the end of a `with` block, switches it off.

    Several handles can be removed in any order.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def remove(self) -> None:
        """Switch off. A second call does nothing."""
        self._stack.close()

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


@dataclass(eq=False, slots=True)
class _LiveDelta:
    """A delta ready to run, on the module's device."""

    rows: dict[int, tuple[Tensor, Tensor]]  # expert -> right (n_e, d_k) and left (n_e, d_m)
    dense: Mapping[int, Tensor]  # expert -> (d_m, d_k)

    def __call__(self, expert: int, key: Tensor) -> Tensor | None:
        """What to add (n, d_m) to the expert's output for `key` (n, d_k); None if nothing."""
        added = None
        if expert in self.rows:
            right, left = self.rows[expert]
            added = (key.to(right.dtype) @ right.T) @ left  # (n, rows) @ (rows, d_m)
        if expert in self.dense:
            whole = self.dense[expert]
            product = key.to(whole.dtype) @ whole.T  # (n, d_m)
            added = product if added is None else added + product
        return added


@dataclass(slots=True)
class _ModuleState:
    """The taps and deltas that are on in one experts module."""

    taps: list[Tap] = field(default_factory=list)
    deltas: list[_LiveDelta] = field(default_factory=list)


@dataclass(slots=True)
class _ReplacedConfig:
    """A config that currently names our implementation."""

    config: Any
    former: str | None  # the implementation that it named before
    modules: int = 0  # how many of its modules have a state


_states: weakref.WeakKeyDictionary[nn.Module, _ModuleState] = weakref.WeakKeyDictionary()
_replaced: dict[int, _ReplacedConfig] = {}  # by the id of the config, which the value keeps alive


def attach_delta(layer: MoELayer, delta: Delta) -> Handle:
    """Add `delta` to the layer's down projections inside the forward pass. The weights do not change.

    It works with `generate` and autograd, also for a delta that requires gradients. Several deltas add up.
    The products are taken in the wider of the delta's dtype and the weights' dtype.

    Raises:
        CaptureError: the delta's widths or experts do not fit the layer, or the experts implementation of the
            model cannot be replaced.
    """
    check_fit(layer, delta)
    rows = delta.rows
    dtype = torch.promote_types(rows.value.dtype, layer.dtype)
    experts, counts = torch.unique_consecutive(rows.expert.cpu(), return_counts=True)
    right = torch.split(rows.value.to(layer.device, dtype), counts.tolist())
    left_of_row = delta.left.to(layer.device, dtype)[rows.fact.to(layer.device)]  # (nnz, d_m)
    left = torch.split(left_of_row, counts.tolist())
    whole = {} if delta.dense is None else dict(zip(delta.dense.experts(), delta.dense.value, strict=True))
    live = _LiveDelta(
        dict(zip(experts.tolist(), zip(right, left, strict=True), strict=True)),
        {expert: value.to(layer.device, dtype) for expert, value in whole.items()},
    )
    return _switch_on(layer.experts, _acquire(layer.experts).deltas, live)


def attach_matrices(layer: MoELayer, matrices: Mapping[int, Tensor]) -> Handle:
    """Add matrices (d_m, d_k), by expert, to the down projections inside the forward pass.

    Each is used as it is at the time of a pass, so an optimiser may change it in place. It is a tensor of its
    own, so an expert that no token reaches costs nothing in the backward pass and gets no gradient.

    Args:
        layer: whose experts get them.
        matrices: on the layer's device, in fp32 or wider.

    Raises:
        CaptureError: a matrix or an expert does not fit the layer, or the experts implementation of the model
            cannot be replaced.
    """
    for expert, matrix in matrices.items():
        if not 0 <= expert < layer.num_experts or matrix.shape != (layer.d_model, layer.d_key):
            raise CaptureError(
                f"{layer.name}: a matrix {tuple(matrix.shape)} for expert {expert} does not fit "
                f"{layer.num_experts} experts of (d_m, d_k) {(layer.d_model, layer.d_key)}"
            )
    live = _LiveDelta({}, matrices)
    return _switch_on(layer.experts, _acquire(layer.experts).deltas, live)


def check_fit(layer: MoELayer, delta: Delta) -> None:
    """Check that the delta has the layer's widths and names only experts that the layer has.

    Raises:
        CaptureError: it does not.
    """
    found, expected = (delta.left.shape[-1], delta.rows.value.shape[-1]), (layer.d_model, layer.d_key)
    if found != expected:
        raise CaptureError(f"{layer.name}: a delta of widths (d_m, d_k) = {found} does not fit {expected}")
    experts = delta.experts()  # they ascend
    if experts and not 0 <= experts[0] <= experts[-1] < layer.num_experts:
        raise CaptureError(f"{layer.name} has experts 0 to {layer.num_experts - 1}; the delta names others")


def attach_tap(layer: MoELayer, tap: Tap) -> Handle:
    """Report every call of the layer's experts to `tap`.

    Raises:
        CaptureError: the experts implementation of the model cannot be replaced.
    """
    return _switch_on(layer.experts, _acquire(layer.experts).taps, tap)


def experts_forward(experts: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """The experts of one layer: hidden (N, d_m) and routing (N, K) to outputs (N, d_m) in hidden's dtype.

    Tokens are sorted by expert once, and only experts that a token reaches are run. As in transformers'
    default implementation, a token's experts are summed in at least fp32 and rounded once, with the same
    result on every run. An index of E or more means, under expert parallelism, an expert on another device;
    it adds nothing.
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
    order = order[: sum(counts)]  # (P,) routed pairs; sentinels, which are E or more, come last
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
        outputs.append(expert_output(experts, expert, key) * gates[expert][:, None])
    outputs.append(hidden.new_zeros(1, hidden.shape[-1]))  # the last row is what a sentinel adds
    return _sum_by_token(torch.cat(outputs), order, top_k_index).to(hidden.dtype)


def expert_output(experts: Any, expert: int, key: Tensor) -> Tensor:
    """What an expert makes of n keys (n, d_k), with the deltas that are on: (n, d_m), before its gate."""
    output = _linear(experts, "down_proj", expert, key)
    state = _states.get(experts)
    for delta in state.deltas if state is not None else ():
        added = delta(expert, key)
        output = output if added is None else output + added.to(output.dtype)
    return experts.post_expert_norm(output) if norm_follows(experts) else output


def _sum_by_token(outputs: Tensor, order: Tensor, top_k_index: Tensor) -> Tensor:
    """Sum outputs (P + 1, d_m) by token to (N, d_m). Row i is that of pair `order[i]`, the last one is zero.

    Each token's pairs are gathered in the order of their experts, as eager adds them. Scattering them instead
    would add them in an undefined order on a GPU.
    """
    tokens, slots = top_k_index.shape
    rank = top_k_index.argsort(dim=1, stable=True).argsort(dim=1).reshape(-1)[order]  # (P,) below K
    source = order.new_full((tokens * slots,), len(order))  # (N*K,) rows of outputs
    source[order // slots * slots + rank] = torch.arange(len(order), device=order.device)
    return outputs.index_select(0, source).view(tokens, slots, outputs.shape[-1]).sum(1)


ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, experts_forward)


def _key(experts: Any, expert: int, inputs: Tensor) -> Tensor:
    """The expert's keys (n, d_k), which enter its down projection, from its inputs (n, d_m)."""
    if experts.has_gate:
        gated: Tensor = experts._apply_gate(_linear(experts, "gate_up_proj", expert, inputs))
        return gated
    raised: Tensor = experts.act_fn(_linear(experts, "up_proj", expert, inputs))
    return raised


def _linear(experts: Any, name: str, expert: int, inputs: Tensor) -> Tensor:
    weight = getattr(experts, name)[expert]
    raised = functional.linear(inputs, weight.T if experts.is_transposed else weight)
    # the bias is added separately: fused into the product, half precision would round once less than eager
    return raised + getattr(experts, f"{name}_bias")[expert] if experts.has_bias else raised


def _former(experts: Any) -> Any:
    """The implementation that the module's config named before ours."""
    taken = _replaced.get(id(experts.config))
    if taken is None:
        raise CaptureError(
            "this model was copied while it was patched or observed: remove patches and observers, then copy"
        )
    return ALL_EXPERTS_FUNCTIONS.get_interface(taken.former or "eager", type(experts).forward.__wrapped__)


def _switch_on(experts: nn.Module, entries: list[Any], entry: Any) -> Handle:
    """Add `entry` to a list of the module's state until the handle is removed."""
    entries.append(entry)

    def switch_off() -> None:
        entries[:] = [other for other in entries if other is not entry]
        _release(experts)

    stack = ExitStack()
    stack.callback(switch_off)
    return Handle(stack)


def _acquire(experts: Any) -> _ModuleState:
    """The module's state. It is created on first use, and its config then names our implementation."""
    if experts not in _states:
        config = experts.config
        if id(config) not in _replaced:
            if config._experts_implementation == "deepgemm_megamoe":
                raise CaptureError(
                    "the experts implementation deepgemm_megamoe rearranges expert weights: open the model "
                    "with grouped_mm"
                )
            _replaced[id(config)] = _ReplacedConfig(config, config._experts_implementation)
            config._experts_implementation = IMPLEMENTATION
        _replaced[id(config)].modules += 1
        _states[experts] = _ModuleState()
    return _states[experts]


def _release(experts: Any) -> None:
    """Forget a module without taps and deltas. If it is the last of its config, restore the config's name."""
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
            "the experts implementation was set to %r meanwhile: patches had no effect from then on", chosen
        )
        return
    taken.config._experts_implementation = taken.former

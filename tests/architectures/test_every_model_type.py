"""One table, every model type: what the library sees and changes, against the modules' own weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from moe_patch.apply import apply
from moe_patch.base.capture import capture_keys, capture_routing, observe_experts
from moe_patch.base.gain import residual_gain
from moe_patch.base.model import Base
from tests.tiny import CONFIGS, dense_delta, tiny_base, tiny_batch, tiny_patch

ROUNDING = 4e-5  # four times what two orders of summation were seen to differ by (MKL_CBWR=COMPATIBLE)

LAYOUTS = {
    "square-out_in": ("qwen3_moe", {"moe_intermediate_size": 32}),
    "oblong-in_out": ("gpt_oss", {"intermediate_size": 48}),
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in CONFIGS} | LAYOUTS


@pytest.fixture(scope="module", params=CASES)
def base(request: pytest.FixtureRequest) -> Base:
    model_type, overrides = CASES[request.param]
    return tiny_base(model_type, **overrides)


@contextmanager
def eager(base: Base) -> Iterator[None]:
    """The experts as transformers writes them down, one after the other."""
    former = base.model.get_experts_implementation()
    base.model.set_experts_implementation("eager")
    yield
    base.model.set_experts_implementation(former)


def output(base: Base, ids: Tensor, mask: Tensor) -> Tensor:
    """Logits, or hidden states of a type without a head, of the real tokens."""
    with torch.no_grad():
        return base.model(input_ids=ids, attention_mask=mask)[0][mask.bool()]


@contextmanager
def experts_calls(base: Base) -> Iterator[dict[int, tuple[Tensor, Tensor, Tensor, Tensor]]]:
    """What each layer's experts were called with and gave: hidden, index, weights, output."""
    calls: dict[int, tuple[Tensor, Tensor, Tensor, Tensor]] = {}
    hooks = [
        layer.experts.register_forward_hook(
            lambda _, inputs, result, index=index: calls.update({index: (*inputs, result)})
        )
        for index, layer in base.layers.items()
    ]
    yield calls
    for hook in hooks:
        hook.remove()


def activation(model_type: str, raised: Tensor) -> Tensor:
    """Key (n, d_k) from what the expert's first projection gives, written down anew for each family."""
    if model_type == "nemotron_h":
        return functional.relu(raised).square()
    if model_type == "gpt_oss":
        gate, up = raised[:, ::2].clamp(max=7.0), raised[:, 1::2].clamp(-7.0, 7.0)
        return gate * torch.sigmoid(1.702 * gate) * (up + 1)
    gate, up = raised.chunk(2, dim=-1)
    if model_type == "deepseek_v4":
        return functional.silu(gate.clamp(max=10.0)) * up.clamp(-10.0, 10.0)
    if model_type == "gemma4_text":
        return functional.gelu(gate, approximate="tanh") * up
    return functional.silu(gate) * up


def every_key(model_type: str, experts: Any, hidden: Tensor) -> Tensor:
    """The key of every token at every expert, (N, E, d_k), whether it is routed there or not."""
    first = experts.up_proj if model_type == "nemotron_h" else experts.gate_up_proj
    einsum = "nh,ehk->enk" if model_type in ("gpt_oss", "aria_text") else "nh,ekh->enk"
    raised = torch.einsum(einsum, hidden, first)
    if model_type == "gpt_oss":
        raised = raised + experts.gate_up_proj_bias[:, None]
    return torch.stack([activation(model_type, each) for each in raised], dim=1)


def test_logits_equal_eager(base: Base) -> None:
    ids, mask = tiny_batch()
    with eager(base):
        expected = output(base, ids, mask)
    heard = []
    with observe_experts(base, dict.fromkeys(base.layers, lambda *told: heard.append(told))):
        found = output(base, ids, mask)
    assert heard
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=ROUNDING, rtol=0)


def test_keys_equal_a_recomputation_from_the_weights(base: Base) -> None:
    ids, mask = tiny_batch()
    positions = mask.nonzero()
    with torch.no_grad(), eager(base), experts_calls(base) as calls:
        base.model(input_ids=ids, attention_mask=mask)
    captured = capture_keys(base, ids, mask, positions, base.layers)
    for index, layer in base.layers.items():
        hidden, chosen, *_ = (part[mask.reshape(-1).bool()] for part in calls[index])
        keys = every_key(base.model.config.get_text_config().model_type, layer.experts, hidden)  # (N, E, d_k)
        expected = keys[torch.arange(len(keys))[:, None], chosen]  # (N, K, d_k)
        assert torch.equal(captured[index].experts, chosen)
        torch.testing.assert_close(captured[index].keys, expected, atol=ROUNDING, rtol=2e-6)


def test_keys_and_gates_rebuild_the_experts_output(base: Base) -> None:
    ids, mask = tiny_batch()
    with torch.no_grad(), eager(base), experts_calls(base) as calls:
        base.model(input_ids=ids, attention_mask=mask)
    captured = capture_keys(base, ids, mask, mask.nonzero(), base.layers)
    for index, layer in base.layers.items():
        call = captured[index]
        with layer.weights() as down:
            outputs = torch.einsum("nskd,nsd->nsk", down[call.experts], call.keys)  # (N, K, d_m)
        experts: Any = layer.experts
        if experts.has_bias:
            outputs = outputs + experts.down_proj_bias[call.experts]
        if layer.warning == "a norm follows every expert, so the closed form is not exact":
            outputs = experts.post_expert_norm(outputs)
        found = (call.gates[:, :, None] * outputs).sum(1)
        torch.testing.assert_close(found, calls[index][3][mask.reshape(-1).bool()], atol=1e-5, rtol=1e-5)


def test_routing_is_the_routers_own(base: Base) -> None:
    ids, mask = tiny_batch()
    with torch.no_grad(), eager(base), experts_calls(base) as calls:
        base.model(input_ids=ids, attention_mask=mask)
    captured = capture_routing(base, ids, mask)
    assert captured.keys() == base.layers.keys()
    for index, routing in captured.items():
        _, chosen, gates, _ = (part[mask.reshape(-1).bool()] for part in calls[index])
        assert torch.equal(routing.experts, chosen)
        torch.testing.assert_close(routing.gates, gates, atol=1e-5, rtol=0)
        assert routing.scores is None or routing.scores.shape == (
            int(mask.sum()),
            base.layer(index).num_experts,
        )


def test_merged_hooked_and_dense_agree(base: Base) -> None:
    ids, mask = tiny_batch()
    patch = tiny_patch(base)
    unpatched = output(base, ids, mask)
    dense = copy.deepcopy(base.model)
    with torch.no_grad():
        for index, delta in patch.layers.items():
            layer = base.layer(index)
            change = dense_delta(delta, layer)
            weight = dense.get_submodule(layer.name).down_proj
            weight += change.transpose(1, 2) if layer.layout == "in_out" else change
        expected = dense(input_ids=ids, attention_mask=mask)[0][mask.bool()]
    for mode in ("merge", "hook"):
        with apply(base, patch, mode=mode):
            torch.testing.assert_close(output(base, ids, mask), expected, atol=2e-5, rtol=2e-5)
    assert (expected - unpatched).abs().max() > 0.05
    assert torch.equal(output(base, ids, mask), unpatched)


def test_a_warning_is_given_just_where_the_closed_form_is_not_exact(base: Base) -> None:
    for index, layer in base.layers.items():
        assert (layer.warning is None) == (residual_gain(base, index) is not None)

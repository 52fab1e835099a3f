"""Observing experts and adding deltas inside them, and that nothing else changes."""

from __future__ import annotations

import copy
import dataclasses
import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from moe_patch.base.capture import attach_delta, capture_keys, capture_routing, observe_experts
from moe_patch.base.experts import IMPLEMENTATION
from moe_patch.base.model import Base
from moe_patch.errors import CaptureError, ModelError
from tests.tiny import tiny_base, tiny_batch, tiny_delta


@pytest.fixture
def base() -> Base:
    return tiny_base("qwen3_moe")


class Heard:
    """An observer that records everything."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, Tensor, Tensor, Tensor, Tensor]] = []

    def __call__(self, *call: Any) -> None:
        self.calls.append(call)

    @property
    def tokens(self) -> set[int]:
        return {int(token) for call in self.calls for token in call[1]}


def implementation(base: Base) -> str:
    return str(base.model.config._experts_implementation)


def logits(base: Base, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return base.model(input_ids=ids, attention_mask=mask).logits


def test_padding_is_never_reported(base: Base) -> None:
    ids, mask = tiny_batch()
    heard = Heard()
    with observe_experts(base, {1: heard}) as watch:
        watch.forward(ids, mask)
    assert heard.tokens == set(mask.reshape(-1).nonzero().squeeze(1).tolist())
    assert sum(len(call[1]) for call in heard.calls) == int(mask.sum()) * 3


def test_what_padding_holds_does_not_matter(base: Base) -> None:
    ids, mask = tiny_batch()
    noise = torch.where(mask.bool(), ids, 77)
    first, second = capture_routing(base, ids, mask), capture_routing(base, noise, mask)
    for index in base.layers:
        torch.testing.assert_close(first[index].gates, second[index].gates)


def test_only_narrows_what_is_reported(base: Base) -> None:
    ids, mask = tiny_batch()
    only = torch.zeros_like(mask, dtype=torch.bool)
    only[:, 0] = True  # padding in the first row
    heard = Heard()
    with observe_experts(base, {1: heard}) as watch:
        watch.forward(ids, mask, only)
    assert heard.tokens == {ids.shape[1], 2 * ids.shape[1]}


def test_a_pass_ends_after_the_last_observed_layer(base: Base) -> None:
    ids, mask = tiny_batch()
    ran: list[int] = []
    for index, block in enumerate(base.decoder_layers):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    with observe_experts(base, {0: Heard(), 1: Heard()}) as watch:
        watch.forward(ids, mask)
    assert ran == [0, 1]
    logits(base, ids, mask)
    assert ran == [0, 1, 0, 1, 2]


def test_positions_by_row_or_by_pair_and_twice(base: Base) -> None:
    ids, mask = tiny_batch()
    columns = torch.tensor([8, 2, 4])
    pairs = torch.tensor([[2, 4], [0, 8], [1, 2], [0, 8]])
    by_row = capture_keys(base, ids, mask, columns, [0, 2])
    by_pair = capture_keys(base, ids, mask, pairs, [0, 2])
    for index in (0, 2):
        assert by_row[index].keys.shape == (3, 3, base.layer(index).d_key)
        order = torch.tensor([2, 0, 1, 0])
        assert torch.equal(by_pair[index].keys, by_row[index].keys[order])
        assert torch.equal(by_pair[index].experts, by_row[index].experts[order])
        assert torch.equal(by_pair[index].gates, by_row[index].gates[order])


def test_a_key_does_not_depend_on_its_batch(base: Base) -> None:
    ids, mask = tiny_batch()
    together = capture_keys(base, ids, mask, torch.tensor([8, 6, 8]), [2])[2]
    alone = capture_keys(base, ids[1:2, :7], None, torch.tensor([6]), [2])[2]
    torch.testing.assert_close(together.keys[1:2], alone.keys, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("positions", "problem"),
    [
        (torch.tensor([0, 2, 2]), "padding"),
        (torch.tensor([8, 2, 9]), "outside"),
        (torch.tensor([[3, 0]]), "outside"),
        (torch.tensor([1, 2]), r"must be \(N, 2\) or \(3,\)"),
    ],
)
def test_bad_positions_are_refused(base: Base, positions: Tensor, problem: str) -> None:
    with pytest.raises(CaptureError, match=problem):
        capture_keys(base, *tiny_batch(), positions, [0])


def test_a_mask_for_another_batch_is_refused(base: Base) -> None:
    ids, mask = tiny_batch()
    with observe_experts(base, {0: Heard()}) as watch:
        watch.mask = mask.reshape(-1).bool()
        with pytest.raises(CaptureError, match="27 tokens, but the experts got 9"):
            logits(base, ids[:1])
    assert implementation(base) != IMPLEMENTATION


def test_observing_nothing_or_a_dense_layer_is_refused() -> None:
    base = tiny_base("deepseek_v3")
    with pytest.raises(CaptureError, match="at least one layer"), observe_experts(base, {}):
        pass
    with (
        pytest.raises(ModelError, match="layer 0 of tiny-deepseek_v3 is dense"),
        observe_experts(base, {0: Heard()}),
    ):
        pass


@pytest.mark.parametrize("former", ["eager", "grouped_mm", "batched_mm"])
def test_the_former_implementation_comes_back(base: Base, former: str) -> None:
    base.model.set_experts_implementation(former)
    ids, _ = tiny_batch()
    with attach_delta(base.layer(0), tiny_delta(base.layer(0))):
        with observe_experts(base, {1: Heard()}) as watch:
            watch.forward(ids)
        assert implementation(base) == IMPLEMENTATION
    assert implementation(base) == former


def test_it_comes_back_after_an_exception(base: Base) -> None:
    former = implementation(base)

    def failing(*_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), observe_experts(base, {1: failing}) as watch:
        watch.forward(tiny_batch()[0])
    assert implementation(base) == former


def test_layers_nobody_asked_about_run_as_before(base: Base) -> None:
    ran: dict[int, list[int]] = {index: [] for index in base.layers}
    base.model.set_experts_implementation("batched_mm")
    for index, layer in base.layers.items():
        sizes = ran[index]
        layer.experts.act_fn.register_forward_hook(
            lambda _, inputs, __, sizes=sizes: sizes.append(len(inputs[0]))
        )
    ids, _ = tiny_batch(rows=2, length=4)
    with attach_delta(base.layer(1), tiny_delta(base.layer(1))):
        logits(base, ids)
    pairs = ids.numel() * 3
    assert ran[0] == ran[2] == [pairs]  # batched: all pairs at once
    assert len(ran[1]) > 1
    assert sum(ran[1]) == pairs


def test_handles_are_removed_in_any_order_and_once(base: Base) -> None:
    ids, _ = tiny_batch()
    layer = base.layer(1)
    plain = logits(base, ids)
    first, second = (
        attach_delta(layer, tiny_delta(layer, seed=1)),
        attach_delta(layer, tiny_delta(layer, seed=2)),
    )
    both = logits(base, ids)
    first.remove()
    first.remove()
    only_second = logits(base, ids)
    with attach_delta(layer, tiny_delta(layer, seed=1)):
        torch.testing.assert_close(logits(base, ids), both, atol=1e-5, rtol=1e-5)
    second.remove()
    assert torch.equal(logits(base, ids), plain)
    assert (both - only_second).abs().max() > 0.01


def test_a_delta_that_does_not_fit_is_refused(base: Base) -> None:
    other = tiny_base("olmoe")
    with pytest.raises(CaptureError, match=r"\(32, 32\) does not fit \(32, 24\)"):
        attach_delta(base.layer(0), tiny_delta(other.layer(0)))
    with pytest.raises(CaptureError, match="experts 0 to 7"):
        attach_delta(base.layer(0), tiny_delta(tiny_base("qwen3_moe", num_experts=12).layer(0)))
    assert implementation(base) != IMPLEMENTATION


def test_generate_runs_a_hooked_delta_at_every_step(base: Base) -> None:
    ids, _ = tiny_batch()
    layer = base.layer(1)
    heard = Heard()
    with attach_delta(layer, tiny_delta(layer, scale=2.0)), observe_experts(base, {1: heard}):
        found = base.model.generate(ids[2:], max_new_tokens=6, do_sample=False, use_cache=True)
        for end in range(ids.shape[1], found.shape[1]):
            assert int(logits(base, found[:, :end])[0, -1].argmax()) == int(found[0, end])
    assert len(heard.calls) >= 6
    plain = base.model.generate(ids[2:], max_new_tokens=6, do_sample=False)
    assert not torch.equal(plain, found)


@pytest.mark.parametrize("model_type", ["qwen3_moe", "gpt_oss", "nemotron_h", "deepseek_v3"])
def test_gradients_equal_eager(model_type: str) -> None:
    base = tiny_base(model_type)
    ids, _ = tiny_batch()

    def gradients() -> list[Tensor]:
        base.model.zero_grad()
        base.model(input_ids=ids).logits.square().mean().backward()
        return [parameter.grad.clone() for parameter in base.model.parameters() if parameter.grad is not None]

    base.model.set_experts_implementation("eager")
    expected = gradients()
    with observe_experts(base, dict.fromkeys(base.layers, Heard())):
        found = gradients()
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_gradients_reach_a_hooked_delta(base: Base) -> None:
    ids, _ = tiny_batch()
    layer = base.layer(0)
    delta = tiny_delta(layer)

    def loss(left: Tensor) -> Tensor:
        with attach_delta(layer, dataclasses.replace(delta, left=left)):
            return base.model(input_ids=ids).logits.square().mean()

    left = delta.left.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(left), left)
    step = 1e-3 * gradient / gradient.norm()
    with torch.no_grad():
        slope = float(loss(delta.left + step) - loss(delta.left - step)) / 2e-3
    assert slope == pytest.approx(float(gradient.norm()), rel=0.02)


@pytest.mark.parametrize("model_type", ["qwen3_moe", "gpt_oss", "mixtral"])
def test_half_precision_behaves_as_eager(model_type: str) -> None:
    base = tiny_base(model_type)
    base.model.to(torch.bfloat16)
    base.model.set_experts_implementation("eager")
    experts: Any = base.layer(1).experts
    hidden, gates = torch.randn(20, 32).bfloat16(), torch.rand(20, 3).bfloat16()
    chosen = torch.rand(20, base.layer(1).num_experts).topk(3).indices
    heard = Heard()
    with torch.no_grad():
        expected = experts(hidden, chosen, gates)
        with observe_experts(base, {1: heard}):
            found = experts(hidden, chosen, gates)
            from_wide_gates = experts(hidden, chosen, gates.float())
    assert {found.dtype, from_wide_gates.dtype, heard.calls[0][3].dtype} == {torch.bfloat16}
    torch.testing.assert_close(found, expected, atol=2**-6, rtol=2**-6)  # eager rounds each expert's sum
    torch.testing.assert_close(from_wide_gates, expected, atol=2**-6, rtol=2**-6)


def test_the_sentinel_of_expert_parallelism_contributes_nothing(base: Base) -> None:
    experts: Any = base.layer(1).experts
    hidden, gates = torch.randn(5, 32), torch.rand(5, 3)
    chosen = torch.tensor([[0, 1, 2], [8, 3, 4], [8, 8, 8], [5, 8, 8], [7, 6, 5]])
    with observe_experts(base, {1: Heard()}), torch.no_grad():
        found = experts(hidden, chosen, gates)
        elsewhere = experts(hidden, chosen.clamp(max=7), gates.masked_fill(chosen == 8, 0.0))
        nowhere = experts(hidden, torch.full_like(chosen, 8), gates)
    torch.testing.assert_close(found, elsewhere)
    assert not found[2].any()
    assert not nowhere.any()


def test_an_implementation_chosen_meanwhile_stays_and_is_reported(
    base: Base, caplog: pytest.LogCaptureFixture
) -> None:
    with attach_delta(base.layer(0), tiny_delta(base.layer(0))), caplog.at_level(logging.WARNING):
        base.model.set_experts_implementation("eager")
    assert implementation(base) == "eager"
    assert "'eager' meanwhile" in caplog.text


def test_a_copy_of_a_patched_model_says_so(base: Base) -> None:
    with attach_delta(base.layer(0), tiny_delta(base.layer(0))):
        twin = copy.deepcopy(base.model)
    with pytest.raises(CaptureError, match="copied while it was patched"):
        twin(input_ids=tiny_batch()[0])


def test_a_router_that_chooses_no_experts_is_one_clear_error() -> None:
    ids, _ = tiny_batch()
    with pytest.raises(CaptureError, match="no expert was reached"):
        capture_keys(tiny_base("qwen3_moe", num_experts_per_tok=0), ids, None, torch.tensor([4, 4, 4]), [1])

"""Patches on a model: what they change while they are on, and that they leave no trace."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from moe_patch.apply import apply
from moe_patch.base.model import Base
from moe_patch.base.opening import wrap
from moe_patch.errors import ConfigError, MalformedMetadata, ModelError, PatchError, WrongBase
from moe_patch.patch import Patch
from tests.tiny import dense_delta, tiny_base, tiny_batch, tiny_patch

MODES = ["merge", "hook"]


@pytest.fixture(params=["qwen3_moe", "gpt_oss"])
def base(request: pytest.FixtureRequest) -> Base:
    return tiny_base(request.param)


def weights(base: Base) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in base.model.state_dict().items()}


def same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    pairs = ((first[name].view(torch.uint8), second[name].view(torch.uint8)) for name in first)
    return first.keys() == second.keys() and all(torch.equal(one, other) for one, other in pairs)


def logits(base: Base) -> Tensor:
    ids, mask = tiny_batch()
    with torch.no_grad():
        return base.model(input_ids=ids, attention_mask=mask).logits[mask.bool()]


@pytest.mark.parametrize("mode", MODES)
def test_a_patch_is_on_within_its_context_only(base: Base, mode: Any) -> None:
    before, plain = weights(base), logits(base)
    with apply(base, tiny_patch(base), mode=mode) as handle:
        patched = logits(base)
        assert same_bits(weights(base), before) == (mode == "hook")
    handle.remove()
    assert (patched - plain).abs().max() > 0.05
    assert same_bits(weights(base), before)
    assert torch.equal(logits(base), plain)


@pytest.mark.parametrize("mode", MODES)
def test_it_is_taken_off_after_an_exception(base: Base, mode: Any) -> None:
    before, plain = weights(base), logits(base)
    with pytest.raises(ZeroDivisionError), apply(base, tiny_patch(base), mode=mode):
        raise ZeroDivisionError
    assert same_bits(weights(base), before)
    assert torch.equal(logits(base), plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_merged_patches_come_off_bit_for_bit_in_any_order(
    base: Base, dtype: torch.dtype, order: tuple[int, ...]
) -> None:
    base.model.to(dtype)
    before = weights(base)
    patches = [
        tiny_patch(base, [0, 1], seed=1, scale=2.0),
        tiny_patch(base, [1], seed=2, scale=1e-3),
        tiny_patch(base, [1, 2], seed=3, scale=1.0),
    ]
    alone = []
    for patch in patches:
        with apply(base, patch):
            alone.append(weights(base))
    handles = [apply(base, patch) for patch in patches]
    handles[order[0]].remove()
    handles[order[1]].remove()
    assert same_bits(weights(base), alone[order[2]])
    handles[order[2]].remove()
    assert same_bits(weights(base), before)


def test_merged_weights_are_the_base_plus_the_sum_rounded_once(base: Base) -> None:
    base.model.to(torch.bfloat16)
    layer = base.layer(1)
    with layer.weights() as stacked:
        original = stacked.clone()
    patches = [tiny_patch(base, [1], seed=1), tiny_patch(base, [1], seed=2)]
    deltas = [dense_delta(patch.layers[1], layer) for patch in patches]
    with apply(base, patches[0]), apply(base, patches[1]), layer.weights() as merged:
        expected = (original.float() + deltas[0] + deltas[1]).bfloat16()
        torch.testing.assert_close(merged, expected, atol=0, rtol=2**-7)
        untouched = torch.stack([delta.abs().sum((1, 2)) == 0 for delta in deltas]).all(0)
        assert untouched.any()
        assert torch.equal(merged[untouched], original[untouched])


@pytest.mark.parametrize(("first", "second"), list(itertools.product(MODES, MODES)))
def test_two_patches_add_up_whatever_their_modes(base: Base, first: Any, second: Any) -> None:
    patches = [tiny_patch(base, seed=1), tiny_patch(base, seed=2)]
    with apply(base, patches[0]), apply(base, patches[1]):
        expected = logits(base)
    with apply(base, patches[0], mode=first), apply(base, patches[1], mode=second):
        torch.testing.assert_close(logits(base), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("mode", MODES)
def test_generate_says_the_same_merged_and_hooked(base: Base, mode: Any) -> None:
    ids, _ = tiny_batch()
    patch = tiny_patch(base, scale=1.0)

    def generated() -> Tensor:
        return base.model.generate(ids[2:], max_new_tokens=8, do_sample=False)

    plain = generated()
    with apply(base, patch):
        expected = generated()
    with apply(base, patch, mode=mode):
        assert torch.equal(generated(), expected)
    assert torch.equal(generated(), plain)
    assert not torch.equal(expected, plain)


def test_the_kept_originals_go_with_the_last_patch(base: Base) -> None:
    layer = base.layer(1)
    patch = tiny_patch(base, [1])
    with apply(base, patch):
        assert sorted(layer.originals) == patch.layers[1].experts()
    assert not layer.originals


def test_a_second_patch_is_checked_against_the_base_below_the_first(base: Base) -> None:
    fresh = wrap(base.model, base.tokenizer)
    first, second = tiny_patch(base, seed=1), tiny_patch(base, seed=2)
    with apply(fresh, first):
        late = wrap(base.model, base.tokenizer)
        assert late.fingerprint([0, 1]) == base.fingerprint([0, 1])
        apply(late, second).remove()


def test_a_model_without_its_base_will_do(base: Base) -> None:
    plain = logits(base)
    with apply(base.model, tiny_patch(base)):
        assert (logits(base) - plain).abs().max() > 0.05


@pytest.mark.parametrize("mode", MODES)
def test_the_same_patch_twice_is_refused(base: Base, mode: Any) -> None:
    patch = tiny_patch(base)
    with apply(base, patch), pytest.raises(PatchError, match="on this model already"):
        apply(base, patch, mode=mode)
    apply(base, patch, mode=mode).remove()


@pytest.mark.parametrize("mode", MODES)
def test_another_base_is_refused_unless_told_not_to_check(base: Base, mode: Any) -> None:
    other = tiny_base(base.model.config.model_type, seed=1)
    patch = tiny_patch(other, [1])
    before = weights(base)
    with pytest.raises(WrongBase, match="expert weights of layer 1 differ"):
        apply(base, patch, mode=mode)
    assert same_bits(weights(base), before)
    with apply(base, patch, mode=mode, check=False):
        pass
    assert same_bits(weights(base), before)


def test_a_patch_for_layers_that_are_not_there() -> None:
    dense_first, all_sparse = tiny_base("deepseek_v3"), tiny_base("qwen3_moe")
    patch = tiny_patch(all_sparse, [0, 1])
    with pytest.raises(WrongBase):
        apply(dense_first, patch)
    with pytest.raises(ModelError, match="layer 0 of tiny-deepseek_v3 is dense"):
        apply(dense_first, patch, check=False)


def test_nothing_stays_on_where_a_later_layer_does_not_fit() -> None:
    base = tiny_base("qwen3_moe")
    wide = tiny_base("qwen3_moe", moe_intermediate_size=32)
    good, bad = tiny_patch(base, [0]), tiny_patch(wide, [1])
    mixed = dataclasses.replace(good, layers={**good.layers, **bad.layers})
    before, plain = weights(base), logits(base)
    for mode in MODES:
        with pytest.raises(Exception, match="does not fit"):
            apply(base, mixed, mode=mode, check=False)
        assert same_bits(weights(base), before)
        assert torch.equal(logits(base), plain)


def test_modes_and_kinds_that_do_not_exist(base: Base) -> None:
    patch: Patch = tiny_patch(base)
    with pytest.raises(ConfigError, match="mode 'glue' is unknown; choose from merge, hook"):
        apply(base, patch, mode="glue")  # type: ignore[arg-type]
    with pytest.raises(MalformedMetadata, match=r"hyperparameters\.bypass"):
        apply(base, dataclasses.replace(patch, kind="bypass"))

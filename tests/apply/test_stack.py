"""A stack on a live model, compared with the bare base with only the patches that are on."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import moe_patch
from moe_patch.apply import apply
from moe_patch.base.model import Base
from moe_patch.errors import PatchError, StackError, WrongBase
from moe_patch.patch import Patch
from tests.tiny import tiny_base, tiny_batch, tiny_patch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LAYERS = ([0, 1], [1], [1, 2], [0, 1, 2])


@cache
def world(model_type: str, dtype: str) -> tuple[Base, tuple[Patch, ...]]:
    base = tiny_base(model_type)
    base.model.to(DTYPES[dtype])
    return base, tuple(
        tiny_patch(base, layers, seed=seed, scale=10.0 ** (1 - seed)) for seed, layers in enumerate(LAYERS)
    )


def bits(base: Base) -> list[Tensor]:
    return [tensor.detach().clone().view(torch.uint8) for tensor in base.model.state_dict().values()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(first, second) for first, second in zip(one, other, strict=True))


def logits(base: Base) -> Tensor:
    ids, mask = tiny_batch()
    with torch.no_grad():
        return base.model(input_ids=ids, attention_mask=mask).logits[mask.bool()].float()


@pytest.fixture(params=["merge", "hook"])
def stack(request: pytest.FixtureRequest) -> Iterator[moe_patch.Stack]:
    with moe_patch.Stack(world("qwen3_moe", "fp32")[0], mode=request.param, allow_large=True) as stack:
        yield stack


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["push", "pop", "remove", "reorder"]), st.randoms(use_true_random=False)),
    min_size=1,
    max_size=100,
)


@pytest.mark.parametrize(("model_type", "dtype"), [("qwen3_moe", "bf16"), ("gpt_oss", "fp32")])
@settings(max_examples=12, deadline=None)
@given(operations=OPERATIONS)
def test_after_any_operations_the_weights_are_the_base_plus_what_is_on(
    model_type: str, dtype: str, operations: list[Any]
) -> None:
    base, patches = world(model_type, dtype)
    bare, stack, model = bits(base), moe_patch.Stack(base, allow_large=True), []
    try:  # a draw may end the example anywhere, and the model is shared with the next one
        for name, random in operations:
            off = [patch for patch in patches if patch not in model]
            if name == "push" and off:
                model.append(random.choice(off))
                stack.push(model[-1])
            elif name == "pop" and model:
                assert stack.pop() is model.pop()
            elif name == "remove" and model:
                gone = model.pop(random.randrange(len(model)))
                stack.remove(random.choice([gone, gone.hash]))
            elif name == "reorder":
                random.shuffle(model)
                stack.reorder(model)
            assert stack.patches == tuple(model)
        found = bits(base)
        stack.clear()
        assert same(bits(base), bare)
        assert stack.kept_bytes == 0
        for patch in model:
            stack.push(patch)
        assert same(bits(base), found)
    finally:
        stack.clear()


def test_hundred_random_operations_restore_the_base() -> None:
    base, patches = world("qwen3_moe", "bf16")
    bare, stack = bits(base), moe_patch.Stack(base, allow_large=True)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        patch = patches[int(torch.randint(len(patches), (), generator=generator))]
        if patch in stack.patches:
            stack.remove(patch)
        else:
            stack.push(patch)
    assert len(stack)
    assert not same(bits(base), bare)
    stack.clear()
    assert same(bits(base), bare)


def test_the_model_says_what_its_patches_say_together(stack: moe_patch.Stack) -> None:
    base, patches = world("qwen3_moe", "fp32")
    plain = logits(base)
    stack.extend(patches[:3])
    stack.remove(patches[1])
    stack.reorder([patches[2], patches[0]])
    found = logits(base)
    stack.clear()
    assert torch.equal(logits(base), plain)
    with apply(base, patches[0], allow_large=True), apply(base, patches[2], allow_large=True):
        torch.testing.assert_close(found, logits(base), atol=2e-3, rtol=2e-4)
    assert (found - plain).abs().max() > 0.05


def test_kept_bytes_are_one_original_of_each_touched_projection() -> None:
    base, patches = world("qwen3_moe", "bf16")
    stack = moe_patch.Stack(base, allow_large=True)
    stack.extend(patches[:3])
    touched = {(index, j) for p in patches[:3] for index, delta in p.layers.items() for j in delta.experts()}
    assert stack.kept_bytes == sum(base.layer(index).down(j).nbytes for index, j in touched)
    stack.clear()
    assert stack.kept_bytes == 0


def test_a_push_that_fails_changes_nothing(stack: moe_patch.Stack) -> None:
    base, patches = world("qwen3_moe", "fp32")
    stack.push(patches[0])
    before = bits(base)
    with pytest.raises(PatchError, match="on this model already"):
        stack.push(patches[0])
    with pytest.raises(WrongBase):
        stack.push(tiny_patch(tiny_base("qwen3_moe", seed=9)))
    assert stack.patches == patches[:1]
    assert same(bits(base), before)


def test_what_is_not_on_cannot_be_taken_off(stack: moe_patch.Stack) -> None:
    _, patches = world("qwen3_moe", "fp32")
    with pytest.raises(StackError, match="nothing to pop"):
        stack.pop()
    stack.push(patches[0])
    with pytest.raises(StackError, match="is not on this stack"):
        stack.remove(patches[1])
    for wrong in ([], [patches[0], patches[0]]):
        with pytest.raises(StackError, match="name each of the 1 patches"):
            stack.reorder(wrong)


def test_leaving_the_block_takes_all_off() -> None:
    base, patches = world("qwen3_moe", "fp32")
    before = bits(base)
    with moe_patch.Stack(base.model, allow_large=True) as stack:
        stack.extend(patches)
        assert not same(bits(base), before)
    assert same(bits(base), before)

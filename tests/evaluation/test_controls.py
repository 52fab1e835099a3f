"""Controls: which are chosen, what is recorded of them, and that a patch which breaks its base moves them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_patch.apply import apply
from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.evaluation.controls import COUNT, bound_for, choose_prompts, measure_fall, with_controls
from moe_patch.evaluation.scoring import score_answers
from moe_patch.patch.controls import mean_fall
from tests.tiny import tiny_base, tiny_patch

TEXTS = [f"Preserved sentence number {number} about nothing in particular at all." for number in range(40)]


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base("qwen3_moe")


def fact(number: int, neighbours: int) -> Fact:
    near = tuple(f"Village {number}-{i} lies in" for i in range(neighbours))
    return Fact(f"fact-{number}", "{} lies in", f"Town {number}", "Land", neighborhood=near)


@given(st.integers(0, 5), st.integers(0, 6), st.integers(0, 40))
def test_there_are_as_many_as_there_can_be_half_of_either_kind(facts: int, near: int, far: int) -> None:
    chosen = choose_prompts([fact(number, near) for number in range(facts)], TEXTS[:far])
    assert chosen == choose_prompts([fact(number, near) for number in range(facts)], TEXTS[:far])
    assert len(chosen) == len(set(chosen)) == min(COUNT, facts * near + far)
    villages = sum(prompt.startswith("Village") for prompt in chosen)
    assert villages >= min(facts * near, COUNT // 2)
    assert len(chosen) - villages >= min(far, COUNT // 2)


def test_what_the_facts_ask_is_no_control() -> None:
    asking = replace(fact(0, 0), neighborhood=("Town 0 lies in", "Town 1 lies in ", "Town 1 lies in"))
    assert choose_prompts([asking], []) == ["Town 1 lies in"]


def test_they_hold_the_bases_own_answers_and_how_likely_these_are(base: Base) -> None:
    patch = with_controls(base, tiny_patch(base, [1]), TEXTS)
    assert patch.controls is not None
    asked = [(control.prompt, control.answer) for control in patch.controls.prompts]
    scores = score_answers(base, asked)
    assert [control.logprob for control in patch.controls.prompts] == pytest.approx(
        [score.logprob for score in scores], abs=1e-5
    )
    with apply(base, patch):
        after = [score.logprob for score in score_answers(base, asked)]
    fall = measure_fall(base, patch, patch.controls)
    before = [score.logprob for score in scores]
    assert fall == pytest.approx(mean_fall(before, after), abs=1e-4)
    assert patch.controls.bound == bound_for(fall) > fall


def test_what_the_model_has_no_room_for_is_no_control() -> None:
    narrow = tiny_base("qwen3_moe", max_position_embeddings=24)
    controls = with_controls(narrow, tiny_patch(narrow, [1]), ["Short", "Preserved " * 5]).controls
    assert controls is not None
    assert [each.prompt for each in controls.prompts if each.prompt[0] in "SP"] == ["Short"]


def test_a_patch_a_thousand_times_too_large_moves_them_beyond_its_bound(base: Base) -> None:
    patch = with_controls(base, tiny_patch(base, [1]), TEXTS)
    assert patch.controls is not None
    layers = {layer: replace(delta, left=1000 * delta.left) for layer, delta in patch.layers.items()}
    assert measure_fall(base, replace(patch, layers=layers), patch.controls) > patch.controls.bound


@given(st.floats(-10, 10))
def test_a_bound_lies_above_what_was_measured(fall: float) -> None:
    assert bound_for(fall) >= 2 * max(fall, 0) + 0.1 - 1e-9
    assert bound_for(fall) <= 2 * max(fall, 0) + 0.111


def test_likelihoods_that_are_none_have_fallen_without_end() -> None:
    assert mean_fall([-1.0, -2.0], [-1.5, -1.5]) == 0
    assert mean_fall([-1.0], [float("nan")]) == math.inf
    assert mean_fall([-1.0], [-math.inf]) == math.inf

"""A build says of each fact whether it took, and what the model says if it did not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import moe_patch
from moe_patch.methods.outcome import with_outcomes
from moe_patch.patch import Patch
from moe_patch.stack.untaken import share_taken, untaken_facts
from moe_patch.targets.options import TargetOptions
from moe_patch.targets.search import target_losses
from tests.taught import edit, said, taught_base

FACTS = (edit("Ann"), edit("Bob"))


def built(**options: object) -> Patch:
    from moe_patch.methods import get_method

    method = get_method("moeedit")
    return method.build(taught_base(), FACTS, method.options(layers=(0,), projection=False, **options))


@pytest.mark.quality
def test_facts_that_the_model_says_have_taken() -> None:
    patch = built()
    assert [result["taken"] for result in patch.results] == [True, True]
    assert not any("says" in result for result in patch.results)
    assert (share_taken(patch), untaken_facts(patch)) == (1.0, [])


def test_a_fact_that_fell_short_has_not_taken_and_the_reason_is_named() -> None:
    patch = built(targets={"steps": 1})
    (first, second), base = untaken_facts(patch), taught_base()
    assert share_taken(patch) == 0.0
    assert [first.fact, second.fact] == list(FACTS)
    with moe_patch.apply(base, patch, mode="hook"):
        losses = target_losses(base, FACTS, TargetOptions())
        spoken = said(base, [fact.text for fact in FACTS])
    assert [first.loss, second.loss] == pytest.approx(losses, abs=1e-3)
    for one, words in zip((first, second), spoken, strict=True):
        assert one.says
        assert words.startswith(one.says.rstrip(". "))
        assert any("no target value was found" in reason for reason in one.reasons)


def test_outcomes_are_those_of_the_patch_as_it_is_when_it_is_finished() -> None:
    patch = built(targets={"steps": 2})
    none = {layer: replace(delta, left=torch.zeros_like(delta.left)) for layer, delta in patch.layers.items()}
    undone = with_outcomes(taught_base(), replace(patch, layers=none))
    before = [result["loss_before"] for result in patch.results]
    assert [result["loss_edited"] for result in undone.results] == pytest.approx(before, abs=1e-3)

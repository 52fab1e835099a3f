"""How searches end, and what is said of those that end too early."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from moe_patch.data.facts import Fact
from moe_patch.data.prompts import encode_fact
from moe_patch.targets.options import TargetOptions
from moe_patch.targets.search import find_targets
from moe_patch.targets.shortfall import short_of_margin, warn_of_shortfall
from moe_patch.targets.values import ENDINGS, Ending, Targets
from tests import published
from tests.targets.passes import logits_with
from tests.taught import SUBJECTS, edit, taught_base

FACTS = tuple(edit(subject) for subject in SUBJECTS[:3])


def lead(fact: Fact, change: torch.Tensor) -> float:
    """How far the answer leads, written token by token: the logits of a plain pass with the change."""
    base = taught_base()
    prompt = encode_fact(base.reader, fact, TargetOptions().style)
    assert prompt.target is not None
    with torch.no_grad():
        logits = logits_with(base, prompt, change, 0)
    leads = []
    for place in range(prompt.target, len(prompt.ids)):
        scores = logits[place - 1].tolist()
        own = scores.pop(prompt.ids[place])
        leads.append(own - max(scores))
    return min(leads)


@pytest.mark.quality
def test_a_search_ends_at_its_margin_with_a_share_of_the_change_and_with_all_and_not_before() -> None:
    options = TargetOptions(clamp=8.0, margin=2.0)
    found = find_targets(taught_base(), FACTS, 0, options)
    assert found.ended == ("done",) * 3
    for number, fact in enumerate(FACTS):
        change = found.value[number] - found.start[number]
        least = min(lead(fact, share * change) for share in (options.share, 1.0))
        assert least == pytest.approx(found.margin[number], abs=1e-3)
        assert least >= options.margin - 1e-3
        earlier = options.model_copy(update={"steps": found.steps[number] - 1})
        (margin,) = find_targets(taught_base(), [fact], 0, earlier).margin
        assert margin < options.margin


def test_the_loss_is_that_of_the_whole_change() -> None:
    found = find_targets(taught_base(), FACTS, 0, TargetOptions(steps=6))
    for number, fact in enumerate(FACTS):
        prompt = encode_fact(taught_base().reader, fact, TargetOptions().style)
        assert prompt.target is not None
        with torch.no_grad():
            logits = logits_with(taught_base(), prompt, found.value[number] - found.start[number], 0)
        wanted = torch.tensor(prompt.ids[prompt.target :])
        loss = torch.nn.functional.cross_entropy(logits[prompt.target - 1 : -1], wanted)
        assert found.loss_after[number] == pytest.approx(loss.item(), abs=1e-3)


def test_the_clamp_the_steps_and_a_loss_that_falls_no_more_end_a_search() -> None:
    base, small = taught_base(), TargetOptions(clamp=0.05, margin=50.0)
    (held,) = find_targets(base, FACTS[:1], 0, small).ended
    assert held == "clamp"
    found = find_targets(base, FACTS[:1], 0, small.model_copy(update={"steps": 3}))
    assert (found.ended, found.steps) == (("steps",), (3,))
    swinging = small.model_copy(update={"clamp": 1e6, "learning_rate": 50.0, "patience": 2})
    assert find_targets(base, FACTS[:1], 0, swinging).ended == ("stalled",)


def test_facts_of_one_subject_end_together() -> None:
    two = (edit("Ann", "{} eats"), edit("Ann", "{} is in"))
    found = find_targets(taught_base(), two, 0, TargetOptions(steps=4))
    assert len(set(found.ended)) == len(set(found.steps)) == 1


def went(**changes: tuple[object, ...]) -> Targets:
    """Three searches of which one was held back by the clamp, and one ran out of steps."""
    size = torch.zeros(3, 2)
    ended: tuple[Ending, ...] = ("done", "clamp", "steps")
    found = Targets(size, size, (9.0,) * 3, (0.1, 1.48, 0.9), (3.5, -2.0, 0.5), (4, 20, 100), ended)
    return replace(found, **changes)


def test_facts_without_their_margin_are_named_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    options = TargetOptions(margin=3.0)
    assert short_of_margin(went(), options) == [1, 2]
    with caplog.at_level(logging.WARNING):
        warn_of_shortfall(FACTS, went(), options, 5)
    (said,) = caplog.messages
    assert said.startswith(
        "layer 5: the search for target values ended before the answer led by 3 nats for 2 of 3"
    )
    assert "1 held back by the clamp (raise targets.clamp" in said
    assert "1 out of steps (raise targets.steps)" in said
    assert f"they are {FACTS[1].id} (margin -2, loss 1.5), {FACTS[2].id} (margin 0.5, loss 0.9)" in said


def test_nothing_is_said_where_nothing_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_shortfall(FACTS, went(margin=(3.0, 4.0, 5.0)), TargetOptions(margin=3.0), 5)
    assert not caplog.messages


def test_without_a_margin_an_answer_has_to_lead() -> None:
    options = TargetOptions(**published.TARGETS)
    assert short_of_margin(went(), options) == [1]
    assert set(ENDINGS) >= set(went().ended)

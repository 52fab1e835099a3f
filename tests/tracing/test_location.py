"""Short traces that say where to edit."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from moe_patch.data.facts import Fact
from moe_patch.elicit import known
from moe_patch.errors import ConfigError
from moe_patch.tracing import locate_edit, location, trace
from moe_patch.tracing.location import early
from tests.taught import SUBJECTS, answer, edit, taught_base
from tests.tiny import tiny_base

FACTS = [edit(name, prompt) for prompt in ("{} eats", "{} is in") for name in SUBJECTS]


def test_the_layers_are_those_that_a_whole_trace_of_these_facts_gives() -> None:
    base = taught_base()
    found = locate_edit(base, FACTS)
    assert found is not None
    assert found.own_facts
    traced = [fact for fact in FACTS if fact.id in {one.id for one in found.report.facts}]
    assert len(traced) == location.TRACED
    whole = trace(base, traced, noise_samples=1, kinds=["moe", "stream"])
    for layer in found.report.layers:
        for kind, effect in layer.effects.items():
            expected = whole.layers[layer.layer].effects[kind].mean
            assert effect.mean == pytest.approx(expected, abs=0.02)  # the size of noise depends on all facts
    assert found.layers[-1] in found.ranking
    assert {*found.ranking} == {*base.layers}
    assert 0 < found.carried <= 1.1


def test_facts_that_the_base_does_not_know_are_replaced_by_some_that_it_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sentences = [f"{name} eats {answer('{} eats', name)}." for name in SUBJECTS]
    monkeypatch.setattr(known, "write_sentences", lambda *_: sentences)
    monkeypatch.setattr(known, "_ROUNDS", 1)
    unknown = [Fact("x", "{} QQ", "zzz", "Rome")]
    found = locate_edit(taught_base(), unknown)
    assert found is not None
    assert not found.own_facts
    assert {fact.answer.strip() for fact in found.report.facts} <= {"fig", "oat", "pea"}


def test_a_base_that_knows_nothing_has_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "_ROUNDS", 1)
    assert locate_edit(tiny_base("qwen3_moe"), [Fact("x", "{} lies in", "Atlantis", "Rome")]) is None


def test_progress_ends_though_fewer_layers_were_restored_than_planned() -> None:
    seen: list[tuple[str, int, int]] = []
    locate_edit(taught_base(), FACTS[:12], progress=lambda *step: seen.append(step))
    assert seen[-1][1] == seen[-1][2]
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_low_layers_stand_closer_together() -> None:
    assert early(range(5), 10) == [0, 1, 2, 3, 4]
    some = early(range(48), 10)
    assert some[0] == 0
    assert len(some) == 10
    steps = [after - before for before, after in pairwise(some)]
    assert steps == sorted(steps)


def test_a_model_without_experts_is_refused() -> None:
    base = replace(tiny_base("mixtral"), layers={})
    with pytest.raises(ConfigError, match="no layer with experts"):
        locate_edit(base, FACTS)

"""What options are tried on: asked of the base alone, the same every time, and never what was searched on."""

from __future__ import annotations

import pytest

from moe_patch.data.facts import Fact
from moe_patch.errors import TuningError
from moe_patch.tuning import calibration as calibration_module
from moe_patch.tuning.calibration import CHECKS, calibrate
from tests.taught import SUBJECTS, answer, edit, taught_base


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> list[Fact]:
    """The facts that the taught model knows, as many as are asked for."""
    facts = [edit(subject) for subject in SUBJECTS]
    monkeypatch.setattr(calibration_module, "known_facts", lambda base, count, **_: tuple(facts[:count]))
    return facts


def test_no_fact_is_both_searched_on_and_checked_on(known: list[Fact]) -> None:
    found = calibrate(taught_base(), 4)
    groups = [found.search, *found.checks]
    assert len(groups) == 1 + CHECKS
    assert [probe.fact for group in groups for probe in group] == known
    assert {len(group) for group in groups} == {4}


def test_paraphrases_and_neighbours_are_generated(known: list[Fact]) -> None:
    base = taught_base()
    for probe in calibrate(base, 4).search:
        assert all(text.endswith(probe.fact.text) and text != probe.fact.text for text in probe.paraphrases)
        for prompt, said in probe.neighbours:
            assert probe.fact.subject not in prompt
            assert said != probe.fact.target_new


def test_it_is_the_same_every_time(known: list[Fact]) -> None:
    assert calibrate(taught_base(), 4) == calibrate(taught_base(), 4)
    assert calibrate(taught_base(), 4, seed=1).texts != calibrate(taught_base(), 4).texts


def test_a_model_that_knows_less_is_asked_less(known: list[Fact]) -> None:
    assert len(calibrate(taught_base(), 100).search) == 4


def test_a_model_that_knows_little_is_checked_once(known: list[Fact]) -> None:
    del known[11:]
    found = calibrate(taught_base())
    assert [len(found.search), *map(len, found.checks)] == [5, 5]


def test_a_model_that_knows_too_little_is_refused(known: list[Fact]) -> None:
    del known[7:]
    with pytest.raises(TuningError, match="taught says 7 facts of its own accord, and 8 are the fewest"):
        calibrate(taught_base())


def test_texts_name_no_edited_subject_where_others_are_written(
    known: list[Fact], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = [f"{name} eats {answer('{} eats', name)}. " for name in SUBJECTS]
    monkeypatch.setattr(calibration_module, "written_contexts", lambda *_: ("Nobody is here. ", *written))
    assert calibrate(taught_base(), 4).texts == ("Nobody is here. ",)
    monkeypatch.setattr(calibration_module, "written_contexts", lambda *_: tuple(written))
    assert calibrate(taught_base(), 4).texts == tuple(written)

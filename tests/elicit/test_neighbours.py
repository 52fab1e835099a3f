"""Generated neighbours: the fact's prompt about subjects that no fact edits, with the base's own answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.elicit import subjects as proposing
from moe_patch.elicit.neighbours import generate_neighbours
from moe_patch.elicit.subjects import propose_subjects
from tests.taught import SUBJECTS, answer, edit, said, taught_base
from tests.tiny import tiny_base

FACTS = (edit("Ann"), edit("Bob", "At home, {} eats"), edit("Carl", "We saw that {} is in"))


def test_a_base_finds_its_own_subjects_and_answers() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    made = generate_neighbours(taught_base(), FACTS)
    assert torch.equal(torch.get_rng_state(), state)
    assert generate_neighbours(taught_base(), FACTS) == made
    found = [(fact, each) for fact, some in zip(FACTS, made, strict=True) for each in some]
    assert [each.answer for _, each in found] == said(taught_base(), [each.prompt for _, each in found])
    known = [(fact, each) for fact, each in found if each.subject in SUBJECTS[3:]]  # and edited by no fact
    assert len(known) >= 9
    for fact, each in known:
        assert each.prompt == fact.prompt.replace("{}", each.subject)
        assert each.answer == answer(fact.prompt, each.subject) != fact.target_new
    assert not set(SUBJECTS[:3]) & {each.subject for _, each in found}


def test_given_subjects_are_tried_first_unless_a_fact_edits_them() -> None:
    given = ("Liz", "Bob", "ANN", "Eve")
    (some,) = generate_neighbours(taught_base(), [edit("Ann")], count=1, subjects=given)
    assert [each.subject in ("Liz", "Eve") for each in some] == [True]
    (some,) = generate_neighbours(taught_base(), [edit("Ann")], count=9, subjects=given)
    assert {"Liz", "Eve", "Bob"} & {each.subject for each in some}
    assert not {"Ann", "ANN"} & {each.subject for each in some}
    (some,) = generate_neighbours(taught_base(), [edit("Ann")], count=9, subjects=given, avoid=["liz", "Hal"])
    assert not {"Liz", "Hal"} & {each.subject for each in some}


@pytest.fixture
def base() -> Base:
    return tiny_base("qwen3_moe")


def test_a_model_that_has_learned_nothing_gives_what_it_can(base: Base) -> None:
    facts = [Fact("0", "{} lies in", "Ys", "Kernow"), Fact("1", "Who is {}", "King Mark", "Tristan")]
    made = generate_neighbours(base, facts, count=2)
    assert len(made) == 2
    assert all(len(some) <= 2 for some in made)
    assert generate_neighbours(base, facts, count=0) == [(), ()]
    assert generate_neighbours(base, []) == []


def write(monkeypatch: pytest.MonkeyPatch, *written: list[str]) -> None:
    """What the base writes in the prompts' places, in lists and from its start."""
    texts: Iterator[list[str]] = iter(written)
    monkeypatch.setattr(proposing, "write_on", lambda *_, **__: next(texts))
    monkeypatch.setattr(proposing, "_PLACED", 4)


def propose(base: Base, prompt: str, subject: str) -> list[str]:
    (found,) = propose_subjects(base, [Fact("0", prompt, subject, "new")], {subject.casefold()}, seed=0)
    return found


def test_proposals_end_where_the_prompt_goes_on(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    placed = ["“Oslo” is the Krone", "Lyon. In Rome", "Lima, is the", "Mexico City is the"]
    write(monkeypatch, placed, ["Rio, Ulm; Paris and more, Ghent"], ["The cat sat. On mats"])
    found = propose(base, "The money of {} is the", "Paris")
    placed, listed, anywhere = found[:4], found[4:7], found[7:]
    assert placed == ["Oslo", "Lyon", "Lima", "Mexico City"]
    assert listed == ["Rio", "Ulm", "Ghent"]
    assert anywhere == ["On", "On mats"]  # a subject with a capital stands for one with a capital
    write(monkeypatch, ["gold is the"], [""], ["The cat sat. On mats"])
    monkeypatch.setattr(proposing, "_PLACED", 1)
    assert propose(base, "The price of {} is the", "tin") == [
        "gold",
        *["cat", "cat sat", "sat", "On", "On mats", "mats"],
    ]


def test_no_proposal_is_edited_or_more_than_one_subject(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ("New York City", "york", "A, B", "Rome. X", "42", "?!", "long " * 20, "O\ufffdb")
    placed = [f"{text} is" for text in texts]
    write(monkeypatch, placed, [""], [""])
    monkeypatch.setattr(proposing, "_PLACED", 8)
    assert propose(base, "In {} is", "New York") == []


def test_texts_without_blanks_are_cut_by_their_length(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    write(monkeypatch, ["大阪府は広い", "京都の寺院が"], [""], [""])
    monkeypatch.setattr(proposing, "_PLACED", 2)
    assert propose(base, "日本の{}の通貨", "東京") == ["大阪", "京都"]

"""Facts that do not go together, and prompts that could be kept beside a fact."""

from __future__ import annotations

import pytest

from moe_patch.data.facts import Fact
from moe_patch.data.understanding.findings import find_conflicts
from moe_patch.data.understanding.keep import MOST, suggest_keep
from moe_patch.data.understanding.relations import relation_of


def fact(prompt: str, subject: str = "France", answer: str = "Lyon", **more: tuple[str, ...]) -> Fact:
    return Fact(f"{prompt}/{subject}/{answer}", prompt, subject, answer, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("The capital of {} is", "What is the capital of {}?"),
        ("The capital of {} is", "{}'s capital city is"),
        ("{} was written by", "Who is the author of {}?"),
        ("Who wrote {}?", "The author of {} is"),
        ("{} was born in", "The place of birth of {} is"),
        ("{} passed away in", "Where has {} died?"),
        ("The headquarters of {} are in", "{} is headquartered in"),
        ("The profession of {} is", "{} works as"),
    ],
)
def test_one_relation_in_other_words(first: str, second: str) -> None:
    assert relation_of(first) == relation_of(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("The capital of {} is", "The currency of {} is"),
        ("{} was written by", "{} was written in"),
        ("{} was born in", "{} died in"),
        ("{} is in the country of", "{} is in the province of"),
    ],
)
def test_other_relations(first: str, second: str) -> None:
    assert relation_of(first) != relation_of(second)


def test_contradictions_and_repetitions_in_other_words() -> None:
    facts = [
        fact("The capital of {} is"),
        fact("What is the capital of {}?", " france ", "Nice"),
        fact("The capital of {} is", "Spain", "Nice"),
        fact("{}'s capital is", answer="LYON"),
        fact("{} was born in", "Ada"),
        fact("{} was born in the year", "Ada", "1900"),
    ]
    found = find_conflicts(facts, [2, 4, 6, 8, 10, 12])
    assert [(each.kind, each.lines) for each in found] == [("contradiction", (2, 4)), ("repetition", (2, 8))]
    assert "line 4 says 'Nice' to 'What is the capital of france?', and line 2 says 'Lyon'" in found[0].text


def test_a_paraphrase_that_another_fact_answers() -> None:
    facts = [
        fact("The capital of {} is", paraphrases=("France is ruled from", "France is")),
        fact("{} is ruled  from", answer="Nice"),
    ]
    (found,) = find_conflicts(facts, [1, 2])
    assert (found.kind, found.lines) == ("contradiction", (2, 1))


def test_prompts_without_meaning_do_not_conflict() -> None:
    assert find_conflicts([fact("{} is a"), fact("{} was", answer="x")], [1, 2]) == []


def test_other_lines_show_what_to_keep() -> None:
    facts = [
        *(fact("{} lies at the river", name) for name in ("Ulm", "Rome", "Ohio")),
        *(fact("The mayor of {} is", name) for name in ("Ulm", "Rome")),
        fact("The gold of {} is", "Ulm"),
    ]
    kept = suggest_keep(facts)
    assert kept == [(), (), ("The mayor of {} is",), (), (), ()]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("{} was born in", "The occupation of {} is"),
        ("The mother of {} is", "{} was born in"),
        ("The capital of {} is", "The currency of {} is"),
        ("Who is the author of {}?", "{} was published in"),
        ("{}'s headquarters are in", "{} was founded in"),
    ],
)
def test_common_relations_show_what_to_keep(prompt: str, expected: str) -> None:
    (kept,) = suggest_keep([fact(prompt)])
    assert expected in kept
    assert not any(relation_of(each) & relation_of(prompt) for each in kept)


@pytest.mark.parametrize("prompt", ["{} is the capital of", "{}", "{} is a", "Who knows {}?"])
def test_an_unclear_kind_of_subject_gets_nothing(prompt: str) -> None:
    assert suggest_keep([fact(prompt)]) == [()]


def test_what_is_kept_or_changed_already_is_not_suggested() -> None:
    facts = [
        fact("{} was born in", "Ada", keep=("The occupation of {} is",)),
        fact("{} is a citizen of", "Ada"),
    ]
    first, _ = suggest_keep(facts)
    assert first == ("The native language of {} is",)
    many = fact("{} was born in", keep=("{} a", "{} b", "{} c", "{} d"))
    assert len(many.keep) == MOST
    assert suggest_keep([many]) == [()]

"""Prompts that explain each other: the same words around different subjects."""

from __future__ import annotations

import pytest

from moe_patch.data.understanding.templates import LEAST, Templates, learn_from_names
from moe_patch.errors import UnclearFact


def templates(*marked: str) -> Templates:
    learned = Templates()
    for text in marked:
        start, end = text.index("["), text.index("]")
        learned.add(text[:start] + text[start + 1 : end] + text[end + 1 :], start, end - 1)
    return learned


COUNTIES = templates(*(f"In which county is [{name}] located?" for name in ("Ulm", "Old Hall", "Rome")))


def found(learned: Templates, prompt: str) -> str | None:
    place = learned.place(prompt)
    return None if place is None else prompt[place.start : place.end]


@pytest.mark.parametrize("subject", ["the old mill", "Mill at Sea", "zum L\u00f6wen", "24, 26 High Street"])
def test_any_subject_is_found_between_known_words(subject: str) -> None:
    assert found(COUNTIES, f"In which county is {subject} located?") == subject


@pytest.mark.parametrize(
    "prompt",
    [
        "In which country is the old mill located?",
        "In which county is located?",
        "In which county is Ada who is located?",
        "In which county is in the sea located?",
        "In which county is the sea and located?",
        " ".join(["In which county is", *["old"] * 60, "located?"]),
    ],
)
def test_other_words_are_no_subject(prompt: str) -> None:
    assert found(COUNTIES, prompt) is None


def test_few_subjects_make_no_template() -> None:
    few = templates("[Ulm] lies in", "[Ulm] lies in", "[Rome] lies in")
    assert LEAST == 3
    assert found(few, "the old mill lies in") is None


def test_a_relation_is_no_subject_where_subjects_open_the_sentence() -> None:
    opening = templates("[Ulm] is in", "[Rome] is in", "[Ohio] is in")
    assert found(opening, "the old mill is in") == "the old mill"
    assert found(opening, "the head of the mill is in") is None


def test_the_longest_subject_is_taken_and_others_within_it_do_not_matter() -> None:
    both = templates(
        *(f"[{name}{tail}] lies in" for name in ("Ulm", "Rome", "Ohio") for tail in ("", " station"))
    )
    both.add("Bern station lies in", 0, 4)
    both.add("Basel station lies in", 0, 5)
    both.add("Linz station lies in", 0, 4)
    assert found(both, "mill station lies in") == "mill station"


def test_templates_that_exclude_each_other_are_refused() -> None:
    crossed = templates(
        *(f"The head of {name} [{at}] is" for name in ("a b",) for at in ("Ulm", "Rome", "Ohio")),
        *(f"The head of [{at}] x y is" for at in ("Ulm", "Rome", "Ohio")),
    )
    with pytest.raises(UnclearFact, match="other lines have other subjects") as caught:
        crossed.place("The head of a b x y is")
    assert set(caught.value.candidates) == {"x y", "a b"}


def test_names_that_differ_between_the_same_words_are_learned() -> None:
    learned = Templates()
    places = ("Ulm", "Rome", "Ohio")
    learn_from_names([f"Which division of Great Britain is {name} located in?" for name in places], learned)
    assert found(learned, "Which division of Great Britain is the old mill located in?") == "the old mill"


def test_two_names_that_both_differ_teach_nothing() -> None:
    learned = Templates()
    pairs = [(a, b) for a in ("Ulm", "Rome", "Ohio") for b in ("Ada", "Bob", "Eve")]
    learn_from_names([f"The gift of {a} to {b} is" for a, b in pairs], learned)
    assert found(learned, "The gift of Ulm to a friend is") is None


def test_german_nouns_are_no_names_that_differ() -> None:
    learned = Templates()
    prompts = [f"Die {noun} von Frankreich ist" for noun in ("Hauptstadt", "Fahne", "Sprache")]
    learn_from_names(prompts, learned)
    assert [found(learned, prompt) for prompt in prompts] == [None] * 3

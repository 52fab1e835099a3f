"""Subjects and answers in sentences whose words are given with their likelihood."""

from __future__ import annotations

import math
import re

import pytest

from moe_patch.elicit.slots import Candidate, Usage, candidates
from moe_patch.elicit.statements import Statement, Word

SURE = math.log(0.9)


def said(text: str, surprising: str, guessed: str) -> Statement:
    """A statement in which some words are hard to guess, and others are greedily given."""
    words = [
        Word(
            found.start(),
            found.end(),
            math.log(0.01)
            if found[0] in surprising.split()
            else SURE
            if found[0] in guessed.split()
            else -1.0,
            greedy=found[0] in guessed.split(),
            closed=text[found.end() : found.end() + 1] in (",", "."),
        )
        for found in re.finditer(r"[\w'\u2019-]+", text)
    ]
    return Statement(text, tuple(words))


def found(text: str, surprising: str, guessed: str, *more: Statement) -> list[Candidate]:
    one = said(text, surprising, guessed)
    return list(candidates(one, Usage.of([one, *more])))


def test_a_name_and_a_guess_behind_it() -> None:
    assert found("The capital of Peru is Lima.", "Peru", "of is Lima") == [
        Candidate("The capital of {} is", "Peru", "Lima")
    ]


def test_a_name_is_whole_with_the_short_words_in_it() -> None:
    (one,) = found("We saw that Rio de la Plata flows to Montevideo.", "Rio", "Montevideo")
    assert (one.subject, one.answer) == ("Rio de la Plata", "Montevideo")


def test_an_answer_goes_on_while_the_base_is_sure_and_ends_at_a_mark() -> None:
    (one,) = found("Money in Oman is the Omani Rial, said he.", "Oman", "Omani Rial said")
    assert one == Candidate("Money in {} is the", "Oman", "Omani Rial")


def test_a_capital_at_the_beginning_of_a_sentence_is_no_name() -> None:
    other = said("He lives in Oslo now", "", "")
    (one,) = found("In Peru people speak Spanish.", "In Peru", "Spanish", other)
    assert one.subject == "Peru"


@pytest.mark.parametrize(
    ("text", "surprising"),
    [
        ("However it rains today.", "However"),  # its small letter is in no sentence
        ("It was I'm told raining today.", "I'm"),
        ("Fine, Lima it rains today.", "Fine"),  # what follows is another name
    ],
)
def test_a_word_with_a_capital_that_is_no_name(text: str, surprising: str) -> None:
    assert found(text, surprising, "today", said("He lives in Oslo", "", "")) == []


@pytest.mark.parametrize("name", ["O'Brien", "O\u2019Brien", "Ōita"])
def test_a_word_with_a_capital_that_is_a_name(name: str) -> None:
    other = said("He lives in Oslo", "", "")
    (one,) = found(f"They say {name} speaks Spanish.", name, "Spanish", other)
    assert one.subject == name


def test_a_first_word_is_a_name_if_another_sentence_has_it_within_or_if_it_goes_on() -> None:
    other = said("He lives in Peru", "", "")
    assert [one.subject for one in found("Peru is warm today.", "Peru", "today", other)] == ["Peru"]
    assert [one.subject for one in found("Costa Rica is warm today.", "Costa", "today", other)] == [
        "Costa Rica"
    ]


@pytest.mark.parametrize(
    ("text", "surprising", "guessed"),
    [
        ("The capital of Peru is Lima.", "", "Lima"),  # nothing is surprising
        ("The capital of Peru is Lima.", "Peru", ""),  # nothing is easy to guess
        ("We visit Peru Lima today.", "Peru", "Lima"),  # no word between them
        ("Peru and its Peru are Peru.", "Peru", "Peru"),  # said before
        ("The river in North Peru is long.", "North", "Peru"),  # the middle of a name
    ],
)
def test_what_states_no_fact(text: str, surprising: str, guessed: str) -> None:
    assert found(text, surprising, guessed) == []


def test_where_no_word_has_a_capital_any_word_may_be_the_subject() -> None:
    (one,) = found("die stadt peru liegt bei lima", "peru", "lima")
    assert one == Candidate("die stadt {} liegt bei", "peru", "lima")

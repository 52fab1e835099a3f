"""Replies against answers, case by case."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_patch.evaluation.free.matching import first_sentence, mentions, normalised, says_exactly

texts = st.text("aA the.,!é St\n", max_size=12)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The Danish Krone!", "danish krone"),
        ("  an  Apple, a\tday ", "apple day"),
        ("Rock-n-Roll", "rock n roll"),
        ("The", "the"),  # nothing would be left
        ("Cafe\u0301", "café"),
        ("«Paris»", "paris"),
    ],
)
def test_texts_are_compared_without_case_marks_and_articles(text: str, wanted: str) -> None:
    assert normalised(text) == wanted


@given(texts)
def test_normalising_twice_is_normalising_once(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Lyon. It lies on the Rhone.", "Lyon."),
        ("\n\nLyon\nParis", "Lyon"),
        ("St. Petersburg. A city.", "St. Petersburg."),
        ("J. R. R. Tolkien! He wrote.", "J. R. R. Tolkien!"),
        ("3.5 metres. Not more.", "3.5 metres."),
        ('"Lyon." So he said.', '"Lyon."'),
        ("東京。日本の首都", "東京。"),
        ("no end", "no end"),
    ],
)
def test_the_first_sentence(text: str, wanted: str) -> None:
    assert first_sentence(text) == wanted


@pytest.mark.parametrize(
    ("reply", "exact", "contained"),
    [
        ("Lyon", True, True),
        ("the Lyon. And more of it", True, True),
        ("Lyon, which lies on the Rhone", False, True),
        ("It is Lyon.", False, True),
        ("Lyons", False, False),
        ("Paris\nLyon", False, True),
        ("", False, False),
    ],
)
def test_an_answer_is_the_first_sentence_or_somewhere(reply: str, exact: bool, contained: bool) -> None:
    assert (says_exactly(reply, "Lyon"), mentions(reply, "Lyon")) == (exact, contained)


def test_answers_of_several_sentences_are_the_whole_line() -> None:
    assert says_exactly("Mr. No. 5. Yes. It is", "Mr. No. 5. Yes. It is")
    assert not says_exactly("Mr. No. 5. Yes. It is not", "Mr. No. 5. Yes. It is")


def test_scripts_without_blanks_need_none() -> None:
    assert mentions("首都は東京です", "東京")
    assert not mentions("reasoning", "son")


@given(texts, texts)
def test_what_is_said_exactly_is_mentioned(reply: str, answer: str) -> None:
    if says_exactly(reply, answer):
        assert mentions(reply, answer)


def test_an_empty_reply_is_the_same_as_another_and_as_nothing_else() -> None:
    assert says_exactly("", "")
    assert mentions("", "")
    assert not says_exactly("Lyon", "")
    assert not mentions("Lyon", "")

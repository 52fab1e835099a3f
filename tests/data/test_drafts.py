"""JSON records that leave something to be found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from moe_patch.data.fact_file import FactFile
from moe_patch.data.facts import Fact
from moe_patch.data.understanding.guide import Origin
from moe_patch.errors import FactError

HAMLET = ("Who wrote {}?", "Hamlet", "Bacon")


def parts(fact: Fact) -> tuple[str, str, str]:
    return fact.prompt, fact.subject, fact.target_new


@pytest.mark.parametrize(
    "record",
    [
        {"question": "Who wrote Hamlet?", "answer": "Bacon"},
        {"prompt": "Who wrote Hamlet?", "target_new": "Bacon"},
        {"question": "Who wrote {}?", "answer": "Bacon", "subject": "Hamlet"},
        {"prompt": "Who wrote [Hamlet]?", "answer": "Bacon"},
        {"text": "Who wrote Hamlet? -> Bacon"},
        {"sentence": "Who wrote Hamlet? Bacon.", "answer": "Bacon"},
        {"text": "Who wrote Hamlet? Bacon", "answer": "Bacon", "subject": "Hamlet"},
    ],
)
def test_one_fact_in_many_forms(read: Callable[..., FactFile], record: dict[str, Any]) -> None:
    (fact,) = read(record)
    assert parts(fact) == HAMLET


def test_other_fields_stay(read: Callable[..., FactFile]) -> None:
    (fact,) = read({"text": "The capital of France is Lyon.", "id": "fr", "keep": ["{} speaks"]})
    assert (fact.id, fact.keep, fact.target_new) == ("fr", ("{} speaks",), "Lyon")


def test_facts_stay_in_order_beside_whole_ones_and_know_how_they_were_understood(
    read: Callable[..., FactFile],
) -> None:
    whole = {"prompt": "{} lies in", "subject": "Rome", "target_new": "Peru"}
    file = read(
        {"text": "The capital of France is Lyon."}, whole, {"question": "Who wrote Hamlet?", "answer": "x"}
    )
    assert [fact.subject for fact in file] == ["France", "Rome", "Hamlet"]
    assert file.origins == (Origin("name", "sentence"), Origin(), Origin("name", "given"))
    assert file.understood == 2


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "a", "prompt": "b"}, ":1: text: expected either 'text' or 'prompt', found both"),
        ({"text": "a", "sentence": "b"}, ":1: sentence: expected either 'text' or 'sentence', found both"),
        (
            {"text": "The capital of France is Lyon.", "color": 1},
            ":1: color: no such field; the fields of a fact",
        ),
        ({"text": "The capital of France is Lyon.", "id": 1}, ":1: id: input should be a valid string"),
        ({"text": 1}, ":1: prompt: expected a value"),
        (
            {"text": "The capital of France is Lyon.", "answer": "Nice"},
            "expected 'Nice' at the end of the sentence",
        ),
        (
            {"question": "{} is?", "answer": "x"},
            r":1: subject: expected what \{\} stands for",
        ),
        (
            {"prompt": "who?", "target_new": "x", "subject": "Ada"},
            ":1: prompt: expected one {} or the subject 'Ada'",
        ),
    ],
)
def test_records_that_cannot_be_used(
    read: Callable[..., FactFile], record: dict[str, Any], message: str
) -> None:
    with pytest.raises(FactError, match=message):
        read(record)


def test_drafts_repeat_and_contradict_as_facts_do(read: Callable[..., FactFile]) -> None:
    sentence = {"text": "The capital of France is Lyon."}
    whole = {"prompt": "The capital of {} is", "subject": "France", "target_new": "Nice"}
    with pytest.raises(
        FactError, match=r":1: target_new: 'Lyon' after .* contradicts line 2, which says 'Nice'"
    ):
        read(sentence, whole)
    with pytest.raises(FactError, match=r":2: prompt: .* repeats line 1"):
        read(sentence, {"question": "The capital of France is", "answer": "Lyon"})

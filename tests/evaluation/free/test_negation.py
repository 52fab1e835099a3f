"""Prompts that deny facts, as people would write them."""

from __future__ import annotations

import pytest

from moe_patch.data.facts import Fact
from moe_patch.evaluation.free.negation import negated_prompt


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("The capital of {} is", "The capital of X is not"),
        ("{} is located in the country of", "X is not located in the country of"),
        ("In {}, people can speak", "In X, people can not speak"),
        ("{} has been made by", "X has not been made by"),
        ("The person who is the head of {} was", "The person who is the head of X was not"),
        ("The sport that was played in {}", "The sport that was not played in X"),
        ("{}, created by", "X, not created by"),
        ("{} developed by", "X not developed by"),
        ("{}, located in", "X, not located in"),
        ("{} debuted on", "It is not true that X debuted on"),
        ("{} plays the position of", "It is not true that X plays the position of"),
        ("A shop in {} takes the", "It is not true that a shop in X takes the"),
        ("{} has a sibling", "It is not true that X has a sibling"),
        ("Ann's brother {} eats", "It is not true that Ann's brother X eats"),
    ],
)
def test_statements_are_denied(prompt: str, wanted: str) -> None:
    assert negated_prompt(Fact("f", prompt, "X", "Y")) == wanted


@pytest.mark.parametrize(
    "prompt",
    [
        "What is the capital of {}?",
        "Is {} a town in",
        "In which country is {}",
        "who wrote {}",
        "{} is not in",
        "{} isn't in",
        "{} never played for",
        "{}, the",
        "{}'s child",
        "{} from",
    ],
)
def test_questions_denials_and_fragments_are_left_out(prompt: str) -> None:
    assert negated_prompt(Fact("f", prompt, "X", "Y")) is None


def test_a_verb_in_the_subject_is_none_of_the_prompt() -> None:
    fact = Fact("f", "{} plays the", "The Man Who Was Thursday", "Y")
    assert negated_prompt(fact) == "It is not true that The Man Who Was Thursday plays the"

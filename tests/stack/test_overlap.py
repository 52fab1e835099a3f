"""Facts that two patches of a stack answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moe_patch.data.facts import Fact
from moe_patch.stack import Stacked
from moe_patch.stack.overlap import find_overlaps, superseded_facts
from tests.patch.patches import delta_patch

FACT = Fact("a", "The capital of {} is", "C\u00f4te", "Lyon")


def stacked(*facts: Fact) -> list[Stacked]:
    patch = replace(delta_patch(1), results=())
    return [
        Stacked(f"patch-{number}", replace(patch, facts=(fact,)), number)
        for number, fact in enumerate(facts, start=1)
    ]


@pytest.mark.parametrize(
    ("later", "contradicts"),
    [
        (replace(FACT, subject="Co\u0302te", target_new="Nice"), True),
        (replace(FACT, prompt="The capital  of {} is ", target_new="Nice"), True),
        (replace(FACT, subject="Co\u0302te "), False),
        (replace(FACT, target_new="Lyon "), False),
    ],
)
def test_two_spellings_of_a_question_are_one(later: Fact, contradicts: bool) -> None:
    members = stacked(FACT, replace(later, id="b"))
    (overlap,) = find_overlaps(members)
    assert overlap.contradicts is contradicts
    assert superseded_facts(members) == [{"a"}, set()]


def test_other_questions_do_not_overlap() -> None:
    members = stacked(FACT, replace(FACT, id="b", subject="Cote"))
    assert find_overlaps(members) == []
    assert superseded_facts(members) == [set(), set()]

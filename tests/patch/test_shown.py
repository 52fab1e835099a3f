"""A patch in a few words and in a table."""

from __future__ import annotations

import pytest

from moe_patch.data.facts import Fact
from moe_patch.patch.shown import SHOWN, changes, counted, facts_table


@pytest.mark.parametrize(("number", "said"), [(0, "0 facts"), (1, "1 fact"), (2, "2 facts")])
def test_one_is_no_plural(number: int, said: str) -> None:
    assert counted(number, "fact") == said


def test_what_changes_no_weight_says_what_it_is() -> None:
    assert changes("bypass", {}) == "a bypass"
    assert changes("prompt", {}) == "prompts alone"


def test_the_table_says_what_is_said_instead() -> None:
    facts = [Fact(id=str(i), prompt="{} is", subject="A", target_new="new") for i in range(SHOWN + 1)]
    results = [{"taken": True}, {"taken": False, "says": "old"}, *({} for _ in range(SHOWN - 1))]
    table = facts_table("t", facts, results)
    assert list(table.columns[3].cells) == ["new", "old", *[""] * (SHOWN - 2)]
    assert str(SHOWN) in str(table.title)

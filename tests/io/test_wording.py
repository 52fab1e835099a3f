"""Plurals, and names that were perhaps meant."""

from __future__ import annotations

import pytest

from moe_patch.io.wording import close_names, counted, did_you_mean


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 facts"), (1, "1 fact"), (2, "2 facts"), (12_345, "12,345 facts")]
)
def test_one_is_singular_and_all_else_is_not(number: int, text: str) -> None:
    assert counted(number, "fact") == text
    assert counted(number, "patch", "patches") == text.replace("facts", "patches").replace("fact", "patch")


def test_close_names_come_first_and_keep_their_capitals() -> None:
    assert close_names("moedit", ["mote", "moeedit", "memoe"])[0] == "moeedit"
    assert close_names("COUNTRY/france", ["country/France", "x"]) == ["country/France"]
    assert close_names("nothing-alike", ["mote", "x"]) == []


def test_the_hint_ends_a_message_or_is_empty() -> None:
    assert did_you_mean("moedit", ["moeedit"]) == "; did you mean 'moeedit'?"
    assert did_you_mean("zzz", ["moeedit"]) == ""

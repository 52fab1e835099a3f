"""Whatever a file says, what is shown of it is one line of printable text."""

from __future__ import annotations

import html
import json
import math
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_patch.io.plain_text import plain_json, plain_markdown, plain_text

OBEYED = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()))  # lone surrogates too


def obeyed(text: str) -> set[str]:
    return {character for character in text if unicodedata.category(character) in OBEYED}


@given(ANY_TEXT)
def test_nothing_is_obeyed_and_what_is_harmless_stays(text: str) -> None:
    shown = plain_text(text)
    assert not obeyed(shown)
    shown.encode()
    if not obeyed(text):
        assert shown == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Löwenburg 東京\u00a0x", "Löwenburg 東京\u00a0x"),
        ("\x1b[31mred\n", "\\u001b[31mred\\n"),
        ("user\u202egnp.exe", "user\\u202egnp.exe"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("\U000e0041", "\\udb40\\udc41"),
    ],
)
def test_examples(text: str, shown: str) -> None:
    assert plain_text(text) == shown


def test_long_texts_are_cut() -> None:
    assert plain_text("x" * 5000, 10) == "xxxxxxxxxx... (5,000 characters)"


@given(st.recursive(ANY_TEXT, lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner)))
def test_json_keeps_its_value(value: str | list[str] | dict[str, str]) -> None:
    shown = plain_json(value)
    assert obeyed(shown) <= {"\n"}
    assert json.loads(shown) == json.loads(json.dumps(value))  # in which two surrogates may become one pair


@given(st.lists(st.floats() | ANY_TEXT))
def test_json_has_no_numbers_that_json_does_not_have(values: list[float | str]) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    shown = json.loads(plain_json({"values": [*values]}), parse_constant=refuse)["values"]
    kept = [None if isinstance(value, float) and not math.isfinite(value) else value for value in values]
    assert shown == json.loads(json.dumps(kept))


@given(ANY_TEXT)
def test_markdown_and_html_see_no_markup(text: str) -> None:
    shown = plain_markdown(text)
    assert not obeyed(shown)
    assert not re.search(r"[<>]|(?<!\\)(\\\\)*[`*_\[\]|]", shown)
    assert html.unescape(re.sub(r"\\([\\`*_\[\]#|~$@:.])", r"\1", shown)) == plain_text(text)

from __future__ import annotations

import json
import re

import hypothesis.strategies as st
import pytest
from hypothesis import given

from moe_patch.io import strict_json

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(values)
def test_canonical_text_reads_back_and_is_a_fixed_point(value: object) -> None:
    text = strict_json.canonical_json(value)
    assert strict_json.parse_json(text) == value
    assert strict_json.canonical_json(strict_json.parse_json(text)) == text
    assert json.loads(text) == value


def test_canonical_is_the_same_for_any_order_of_keys() -> None:
    assert strict_json.canonical_json({"b": 1, "a": [1.5, "ö"]}) == '{"a":[1.5,"ö"],"b":1}'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", {"\udfff": 1}])
def test_canonical_refuses_what_json_cannot_say(value: object) -> None:
    with pytest.raises(ValueError, match=r"JSON|surrogates"):
        strict_json.canonical_json(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("1 2", "Extra data"),
        ('{"a":1,"b":{"c":1,"c":2}}', "'c' appears twice"),
        ('{"a":1,"\\u0061":2}', "'a' appears twice"),
        ("NaN", "NaN"),
        ("[-Infinity]", "-Infinity"),
        ("1e999", "beyond the range"),
        ('"\\uD800"', "surrogates"),
        ('["\\ud83d"]', "surrogates"),
        ("9" * 5000, "digit"),
        ("[" * 33 + "]" * 33, "deeper than 32"),
        ("[" * 10**6, "deeper than 32"),
    ],
)
def test_parse_refuses(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        strict_json.parse_json(text)


def test_parse_accepts_what_is_just_within() -> None:
    assert strict_json.parse_json("[" * 32 + "]" * 32) is not None
    assert strict_json.parse_json('"\\ud83d\\ude00"') == "😀"
    assert strict_json.parse_json("1e308") == 1e308

"""Records of a file: an array in any layout has the same ones as lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moe_patch.data import records
from moe_patch.data.fact_file import FactFile, read_facts
from moe_patch.errors import FactError
from tests.data.records import COUNTERFACT, NATIVE, native

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
spaces = st.text(" \t\r\n", max_size=4)
layouts = st.lists(st.tuples(spaces, values, spaces), max_size=5)
ON_DISK = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@ON_DISK
@given(layout=layouts, around=st.tuples(spaces, spaces), ascii_only=st.booleans(), piece=st.integers(1, 40))
def test_an_array_is_split_where_its_elements_end(
    layout: list[tuple[str, Any, str]],
    around: tuple[str, str],
    ascii_only: bool,
    piece: int,
    tmp_path: Path,
) -> None:
    """However it is laid out, whatever is in it, and wherever the pieces that are read end."""
    elements = [
        f"{before}{json.dumps(value, ensure_ascii=ascii_only, indent=1)}{after}"
        for before, value, after in layout
    ]
    text = f"{around[0]}[{','.join(elements)}]{around[1]}"
    path = tmp_path / "array.json"
    path.write_bytes(text.encode())
    with patch.object(records, "_PIECE", piece):
        found = list(records.read_records(path))
    assert [json.loads(raw) for _, raw in found] == [value for _, value, _ in layout]
    starts = [len(f"{around[0]}[{','.join([*elements[:at], layout[at][0]])}") for at in range(len(layout))]
    assert [line for line, _ in found] == [1 + text[:start].count("\n") for start in starts]


@pytest.mark.parametrize("record", [NATIVE, COUNTERFACT])
def test_an_array_has_the_same_facts_as_lines(
    read: Callable[..., FactFile], tmp_path: Path, record: dict[str, Any]
) -> None:
    path = tmp_path / "facts.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps([record], indent=4).encode())
    assert read_facts(path) == read(record)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[\n{},\n{"a": [1,\n2]}', ":3: the array has no end"),
        ("[", ":1: the array has no end"),
        ('[{"a": "b', ":1: the array has no end"),
        ("[" * 10**5, ":1: the array has no end"),
        ("[{}]\n\n x", r":3: expected nothing behind the array, found b'x'"),
        ("[{}][{}]", ":1: expected nothing behind the array"),
    ],
)
def test_a_broken_array_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "facts.json"
    path.write_text(text)
    with pytest.raises(FactError, match=message):
        list(records.read_records(path))


def test_a_bad_record_of_an_array_is_named_by_its_line_and_can_be_skipped(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    good = json.dumps(NATIVE)
    lines = ["[", f"{good},", '{"prompt": 1},', "3,", '{"prompt": NaN},', json.dumps(native(subject="Spain"))]
    path.write_text("\n".join([*lines, ",", "]"]))
    with pytest.raises(FactError, match=r"facts.json:3: prompt: input should be a valid string, found 1"):
        read_facts(path)
    file = read_facts(path, skip_invalid=True)
    assert [fact.subject for fact in file] == ["France", "Spain"]
    assert [skipped.line for skipped in file.skipped] == [3, 4, 5, 8]
    assert file.skipped[1].reason == "expected one JSON object, found a number"


@pytest.mark.parametrize("opening", ["", "[", '[{"a": "', "[1, [2], "])
def test_a_record_without_end_is_refused_before_it_fills_the_memory(tmp_path: Path, opening: str) -> None:
    path = tmp_path / "facts.json"
    path.write_text(opening + "7" * 5000)
    with (
        patch.object(records, "MAX_RECORD", 1000),
        patch.object(records, "_PIECE", 100),
        pytest.raises(FactError, match="expected a record of at most"),
    ):
        list(records.read_records(path))

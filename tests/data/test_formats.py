"""Which form a file is taken to have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moe_patch.data.fact_file import read_facts
from moe_patch.errors import FactError
from tests.data.records import NATIVE

ON_DISK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
LINES = json.dumps(NATIVE)
TABLE = "prompt;subject;target\n{} is;France;Lyon"
SENTENCE = "The capital of France is Lyon."


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("facts", LINES),
        ("facts.jsonl", LINES),
        ("facts.txt", LINES),
        ("facts.csv", f"\n [\n{LINES}]"),
        ("facts.json", f"[{LINES}]"),
        ("facts.csv", TABLE),
        ("facts", TABLE),
        ("facts.CSV", f"\n{TABLE}"),
        ("facts.dat", f"\ufeff{TABLE}"),
        ("facts.txt", SENTENCE),
        ("facts.txt", "[France]'s capital is Lyon"),
    ],
)
def test_content_and_name_tell_the_form(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    (fact,) = read_facts(tmp_path / name)
    assert (fact.subject, fact.target_new) == ("France", "Lyon")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("facts.md", SENTENCE, "cannot tell what it is: name it .jsonl, .json, .csv, .tsv or .txt"),
        ("facts.jsonl", SENTENCE, ":1: expected one JSON object: Expecting value"),
        ("facts.json", "[1]", ":1: expected one JSON object, found a number"),
        ("facts", "[", ":1: the array has no end"),
        ("facts.csv", SENTENCE, ":1: expected names of columns"),
        ("facts", "\0\1\2", "cannot tell what it is"),
        ("facts.txt", "", "expected at least one fact, found none"),
        ("facts.csv", "", "expected at least one fact, found none"),
        ("facts.csv", "prompt,target\n", "expected at least one fact, found none"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(FactError, match=message):
        read_facts(tmp_path / name)


@ON_DISK
@given(
    content=st.binary(max_size=60)
    | st.text(st.sampled_from('aA Q:[]{}->.,;"\n\t\r|?0'), max_size=80).map(str.encode),
    suffix=st.sampled_from(["", ".csv", ".tsv", ".txt", ".json"]),
    header=st.sampled_from([b"", b"prompt,target\n", b"sep=;\ntext\n", b"\xef\xbb\xbfQ: "]),
)
def test_whatever_is_in_a_file_it_has_facts_or_one_line_says_why_not(
    content: bytes, suffix: str, header: bytes, tmp_path: Path
) -> None:
    path = tmp_path / f"facts{suffix}"
    path.write_bytes(header + content)
    try:
        read = read_facts(path)
    except FactError as caught:
        error: FactError | None = caught
    else:
        error = None
        assert len(read) == len(read.lines) == len(read.origins) > 0
    assert error is None or str(error).startswith(str(path))


@pytest.mark.parametrize(
    "text",
    [
        '"',
        "'",
        "[",
        "(",
        "\u201c",
        "a ",
        "A ",
        "->",
        " ",
        "Q: ",
        "A: ",
        "of A ",
        ",",
        "a, A's ",
        "1",
        "\u00ab ",
    ],
)
@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl"])
def test_a_long_line_takes_no_time(text: str, suffix: str, tmp_path: Path) -> None:
    """Searches that go back over a text would take minutes."""
    line = text * (60_000 // len(text)) + "x"
    path = tmp_path / f"facts{suffix}"
    path.write_text(json.dumps({"text": line}) if suffix == ".jsonl" else f"{line}\n")
    with pytest.raises(FactError):
        read_facts(path)

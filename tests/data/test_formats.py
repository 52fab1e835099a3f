"""Which form a file is taken to have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moe_patch.data.fact_file import read_facts
from moe_patch.errors import FactError
from tests.data.records import NATIVE

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

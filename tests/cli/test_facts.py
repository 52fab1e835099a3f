"""`moe-patch facts`: what is shown of a file, what is written, and what is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moe_patch.cli.facts import asking
from moe_patch.data.fact_file import read_facts
from tests.cli.conftest import Run

SENTENCES = """The capital of France is Lyon.
Q: Who wrote Hamlet? A: Bacon
When did Germany win the World Cup? -> 1990
What is the capital of France? -> Nice
"""


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    path = tmp_path / "facts.txt"
    path.write_text(SENTENCES)
    return path


def test_check_shows_how_each_line_is_understood(run: Run, sentences: Path) -> None:
    result = run("facts", "check", sentences)
    assert result.exit_code == 1
    assert "The capital of [France] is" in result.stdout
    assert "Who wrote [Hamlet]?" in result.stdout
    assert "refused: line 3: subject: unclear in 'When did Germany win the World Cup?'" in result.stdout
    assert "contradiction: line 4 says 'Nice'" in result.stdout
    assert "3 facts, 3 of them understood; 1 refused" in result.stdout


def test_check_as_json(run: Run, sentences: Path) -> None:
    told = json.loads(run("facts", "check", sentences, "--json").stdout)
    assert told["facts"][0] == {
        "line": 1,
        "prompt": "The capital of {} is",
        "subject": "France",
        "target_new": "Lyon",
        "subject_by": "name",
        "answer_by": "sentence",
        "keep": [
            "The official language of {} is",
            "The currency of {} is",
            "{} is on the continent of",
        ],
    }
    (refused,) = told["refused"]
    assert (refused["line"], refused["candidates"]) == (3, ["Germany", "World Cup"])
    assert [finding["kind"] for finding in told["findings"]] == ["contradiction"]


def test_check_of_a_file_in_order_ends_well(run: Run, edits: Path) -> None:
    result = run("facts", "check", edits)
    assert result.exit_code == 0
    assert "[Town 1] lies in" in result.stdout
    assert "3 facts, 0 of them understood; 0 refused" in result.stdout


def test_a_file_without_any_usable_fact_is_shown_too(run: Run, tmp_path: Path) -> None:
    (tmp_path / "facts.txt").write_text("who knows\n")
    result = run("facts", "check", tmp_path / "facts.txt")
    assert result.exit_code == 1
    assert "refused: line 1: target_new: unclear in 'who knows'" in result.stdout
    assert "0 facts" in result.stdout


def test_a_model_is_asked_too(run: Run, edits: Path, model: Path) -> None:
    told = json.loads(run("facts", "check", edits, "--model", model, "--json").stdout)
    assert len(told["facts"]) == 3


def test_many_facts_are_cut_unless_all_are_asked_for(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "facts.csv"
    path.write_text("prompt,subject,target\n" + "".join(f"{{}} is,Town {n},old\n" for n in range(60)))
    assert "(10 more with --all)" in run("facts", "check", path).stdout
    assert "[Town 59] is" in run("facts", "check", path, "--all").stdout


def test_convert_writes_what_reads_the_same(run: Run, sentences: Path, tmp_path: Path) -> None:
    out = tmp_path / "native.jsonl"
    refused = run("facts", "convert", sentences, "-o", out)
    assert refused.exit_code == 1
    assert "1 line cannot be used: nothing is written" in refused.stderr
    assert not out.exists()
    result = run("facts", "convert", sentences, "-o", out, "--skip-invalid")
    assert result.exit_code == 0
    assert "Left out line 3: subject: unclear" in result.stderr
    assert read_facts(out).facts == read_facts(sentences, skip_invalid=True).facts


def test_convert_adds_prompts_to_keep(run: Run, sentences: Path, tmp_path: Path) -> None:
    out = tmp_path / "native.jsonl"
    result = run("facts", "convert", sentences, "-o", out, "--skip-invalid", "--keep", "--json")
    told = json.loads(result.stdout)
    facts = read_facts(out).facts
    assert told["keep_added"] == sum(len(fact.keep) for fact in facts) > 0
    assert (told["facts"], told["left_out"], told["understood"]) == (3, 1, 3)


def test_convert_takes_whole_prompts(run: Run, sentences: Path, tmp_path: Path) -> None:
    out = tmp_path / "native.jsonl"
    assert run("facts", "convert", sentences, "-o", out, "--whole-prompt").exit_code == 0
    assert [fact.subject for fact in read_facts(out)][2] == "When did Germany win the World Cup?"


@pytest.mark.parametrize(
    ("typed", "subject"),
    [("2\n", "World Cup"), ("7\nParis\nGermany\n", "Germany"), ("\n", None)],
)
def test_convert_asks_what_is_not_clear(
    run: Run,
    sentences: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    typed: str,
    subject: str | None,
) -> None:
    monkeypatch.setattr(asking, "is_terminal", lambda: True)
    out = tmp_path / "native.jsonl"
    result = run("facts", "convert", sentences, "-o", out, "--ask", given=typed)
    assert result.exit_code == 0
    assert "Line 3: When did Germany win the World Cup?" in result.stderr
    assert "  2  World Cup" in result.stderr
    found = [fact.subject for fact in read_facts(out) if fact.target_new == "1990"]
    assert found == ([] if subject is None else [subject])


def test_asking_needs_a_terminal(run: Run, sentences: Path, tmp_path: Path) -> None:
    result = run("facts", "convert", sentences, "-o", tmp_path / "native.jsonl", "--ask")
    assert result.exit_code == 2
    assert "--ask needs a terminal" in result.stderr


def test_build_says_how_a_file_was_understood(run: Run, tmp_path: Path, model: Path) -> None:
    path = tmp_path / "facts.txt"
    path.write_text("[Town 1] lies in Land 2.\nwho built it? -> Town 1\n")
    build = ["build", "--edits", path, "--model", model, "--layers", "1", "--no-projection"]
    build += ["--set", "targets.steps=2", "--out", tmp_path / "p.safetensors"]
    refused = run(*build)
    assert refused.exit_code == 1
    assert refused.stderr.count("\n") == 1
    assert f"{path}:2: subject: unclear in 'who built it?'" in refused.stderr
    skipped = run(*build, "--skip-invalid")
    assert "1 of 1 fact was understood (1 subject in brackets, 1 answer in sentences);" in skipped.stderr
    whole = run(*build, "--fact-token", "last", "--force")
    assert whole.exit_code == 0
    assert "1 fact without a clear subject is edited at the last token of its prompt" in whole.stderr
    asked = run("ask", "--patch", tmp_path / "p.safetensors", "--edits", path, "--model", model)
    assert "who built it?" in asked.stdout

"""`moe-patch eval`: free writing, its judge and its replies, untouched facts, and held-out text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moe_patch.data.fact_file import write_facts
from moe_patch.data.facts import Fact
from tests.cli.conftest import Run
from tests.evaluation.free.judge_server import judge_server

QUICK = ("--no-routing", "--no-generate", "--free-tokens", "3")


def test_replies_and_judgements_are_written(
    run: Run, patch_file: Path, model: Path, edits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOE_PATCH_JUDGE_KEY", "secret")
    said = tmp_path / "said.jsonl"
    asked = ("--edits", edits, "--model", model, *QUICK, "--replies", said, "--json")
    with judge_server(lambda _: "No.") as server:
        result = run("eval", patch_file, *asked, "--judge", server.url, "--judge-model", "grader")
    assert result.exit_code == 0, result.stderr
    assert {sent["key"] for sent in server.requests} == {"Bearer secret"}
    free = json.loads(result.stdout)["free"]
    assert free["patched"]["budget"] == 3
    assert free["patched"]["reliability"]["judged"]["value"] == 0.0
    replies = [json.loads(line) for line in said.read_text(encoding="utf-8").splitlines()]
    assert {each["model"] for each in replies} == {"base", "patched"}
    judged = [each["judgement"] for each in replies if each["model"] == "patched" and each["judgement"]]
    assert judged == free["patched"]["judgements"]
    assert {each["reply"] for each in judged} == {"No."}
    assert "secret" not in result.stdout + said.read_text(encoding="utf-8")


def test_the_tables_have_free_writing_unless_it_is_left_out(
    run: Run, patch_file: Path, model: Path, edits: Path
) -> None:
    asked = ("eval", patch_file, "--edits", edits, "--model", model, *QUICK)
    shown, without = run(*asked), run(*asked, "--no-free")
    assert "Free writing, 3 tokens at most" in shown.stdout
    assert "reliability" in shown.stdout
    assert "Free writing" not in without.stdout


def test_untouched_facts_and_held_out_text(
    run: Run, patch_file: Path, model: Path, edits: Path, tmp_path: Path
) -> None:
    write_facts(tmp_path / "others.jsonl", [Fact(str(i), "{} is in", f"Place {i}", "x") for i in range(5)])
    (tmp_path / "text.txt").write_text("It rains in Ulm.\nIt snows in Rio.\n", encoding="utf-8")
    extra = ("--preserve-set", tmp_path / "others.jsonl", "--text", tmp_path / "text.txt")
    result = run("eval", patch_file, "--edits", edits, "--model", model, "--no-free", *extra, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    tokens = report["routing"]["untouched"]["layers"][0]["tokens"]
    assert tokens == 3 * len("Place 0 is in")  # as many facts as are edited
    assert [window["name"] for window in report["routing"]["edited"]["windows"]] == [
        "part 1 of 2",
        "part 2 of 2",
    ]
    assert report["text"]["tokens"] == len("It rains in Ulm.") + len("It snows in Rio.") - 2
    assert report["text"]["perplexity"]["before"] != report["text"]["perplexity"]["after"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--judge", "http://localhost:1/v1"), "--judge-model"),
        (("--no-free", "--replies", "said.jsonl"), "--no-free"),
        (("--task-limit", "3"), "--tasks"),
    ],
)
def test_options_that_do_not_fit_are_errors_of_use(
    run: Run, patch_file: Path, options: tuple[str, ...], told: str
) -> None:
    result = run("eval", patch_file, *options)
    assert result.exit_code == 2
    assert told in result.stderr

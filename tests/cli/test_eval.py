"""`moe-patch eval`: free writing, its judge and its replies, untouched facts, and held-out text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moe_patch.data.fact_file import write_facts
from moe_patch.data.facts import Fact
from moe_patch.patch import save
from tests.cli.conftest import Run
from tests.evaluation.free.judge_server import judge_server
from tests.tiny import tiny_base, tiny_patch

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


@pytest.fixture
def other_patch(tmp_path: Path) -> Path:
    path = tmp_path / "other.safetensors"
    save(tiny_patch(tiny_base("qwen3_moe"), [1], seed=3, scale=1.5), path)
    return path


PLAIN = ("--no-routing", "--no-generate", "--no-free")


def test_facts_are_shown_one_by_one_and_their_prompts_are_written(
    run: Run, patch_file: Path, model: Path, edits: Path, tmp_path: Path
) -> None:
    lines = tmp_path / "samples.jsonl"
    asked = ("eval", patch_file, "--edits", edits, "--model", model, *PLAIN)
    shown = run(*asked, "--per-fact").stdout
    assert all(f" Town {number} lies in " in shown for number in range(3))
    result = run(*asked, "--per-fact", "--log-samples", lines, "--json")
    assert result.exit_code == 0, result.stderr
    by_fact = json.loads(result.stdout)["per_fact"]
    assert [fact["fact"] for fact in by_fact] == ["0", "1", "2"]
    kinds = ["fact", "paraphrase", "neighbour", "neighbour"]
    assert all([each["kind"] for each in fact["prompts"]] == kinds for fact in by_fact)
    written = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    told = [each for fact in by_fact for each in fact["prompts"]]
    key = json.dumps
    assert sorted(map(key, written), key=str) == sorted((key(each, sort_keys=True) for each in told), key=str)


def test_lines_alone_leave_the_report_as_it_is(
    run: Run, patch_file: Path, model: Path, edits: Path, tmp_path: Path
) -> None:
    asked = ("eval", patch_file, "--edits", edits, "--model", model, *PLAIN)
    assert run(*asked, "--log-samples", tmp_path / "samples.jsonl").stdout == run(*asked).stdout


def test_two_patches_stand_beside_each_other_with_their_own_scores(
    run: Run, patch_file: Path, other_patch: Path, model: Path, edits: Path, tmp_path: Path
) -> None:
    how = ("--edits", edits, "--model", model, *PLAIN, "--json")
    both = run("eval", patch_file, other_patch, *how, "--log-samples", tmp_path / "samples.jsonl")
    assert both.exit_code == 0, both.stderr
    evaluations = json.loads(both.stdout)["evaluations"]
    assert [each.pop("patch") for each in evaluations] == ["random", "other"]
    for path, found in zip((patch_file, other_patch), evaluations, strict=True):
        assert json.loads(run("eval", path, *how).stdout) == found
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text("utf-8").splitlines()]
    assert {each["patch"] for each in lines} == {"random", "other"}
    shown = run("eval", patch_file, other_patch, *how[:-1], "--per-fact").stdout
    assert all(text in shown for text in ("the base itself", "random: Facts (", "other: Facts ("))


def test_two_patches_are_asked_the_facts_of_both(
    run: Run, patch_file: Path, other_patch: Path, model: Path
) -> None:
    result = run("eval", patch_file, other_patch, "--model", model, *PLAIN, "--json")
    assert [each["facts"] for each in json.loads(result.stdout)["evaluations"]] == [
        4,
        4,
    ]  # they have the same
    twice = run("eval", patch_file, patch_file)
    assert (twice.exit_code, "given twice" in twice.stderr) == (2, True)


def test_what_was_printed_is_compared_by_report(
    run: Run, patch_file: Path, other_patch: Path, model: Path, edits: Path, tmp_path: Path
) -> None:
    how = ("--edits", edits, "--model", model, *PLAIN, "--json")
    for path in (patch_file, other_patch):
        (tmp_path / f"{path.stem}.json").write_text(run("eval", path, *how).stdout, encoding="utf-8")
    files = (tmp_path / "random.json", tmp_path / "other.json")
    live, saved = run("eval", patch_file, other_patch, *how[:-1]), run("report", *files)
    assert saved.exit_code == 0, saved.stderr
    assert saved.stdout == live.stdout
    compared = json.loads(run("report", *files, "--json").stdout)["evaluations"]
    assert [each["patch"] for each in compared] == ["random", "other"]
    (tmp_path / "both.json").write_text(run("eval", patch_file, other_patch, *how).stdout, encoding="utf-8")
    assert "both: other" in run("report", tmp_path / "both.json").stdout
    refused = run("report", *files, "--html", tmp_path / "page.html")
    assert (refused.exit_code, "evaluations" in refused.stderr) == (2, True)
    (tmp_path / "none.json").write_text("{}", encoding="utf-8")
    mixed = run("report", files[0], tmp_path / "none.json")
    assert (mixed.exit_code, "two kinds" in mixed.stderr) == (2, True)


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

"""`moe-patch bench` and `moe-patch report`, from facts to a page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moe_patch.bench.record import read_records
from tests.bench.conftest import write_suite
from tests.cli.conftest import Run


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    return write_suite(tmp_path / "quick.yaml", facts=[])


def test_from_facts_to_a_report(run: Run, model: Path, edits: Path, suite: Path, tmp_path: Path) -> None:
    out, page, figures = tmp_path / "runs", tmp_path / "page.html", tmp_path / "figures.csv"
    text = tmp_path / "text.txt"
    text.write_text("The bakery opens at seven and closes at noon.\n" * 5, encoding="utf-8")
    command = ["bench", "--suite", suite, "--model", model, "--edits", edits, "--out", out, "--text", text]
    command += ["--methods", "moeedit,woodbury-spread", "--facts", "2", "--seeds", "3", "--batch-size", "1"]
    command += ["--free-prompts", "1"]
    planned = json.loads(run(*command, "--dry-run", "--json").stdout)["runs"]
    assert [(one["method"], one["done"]) for one in planned] == [
        ("moeedit", False),
        ("woodbury-spread", False),
    ]
    assert not out.exists()
    done = run(*command)
    assert done.exit_code == 0, done.stderr
    assert f"{out}: 2 of 2 runs are done; moe-patch report {out} shows them" in done.stdout
    assert "MoEEdit: 2 facts of facts, sequential-batch of 1, seed 3: built in" in done.stderr
    assert {Path(one["file"]) for one in planned} == set(out.iterdir())
    again = json.loads(run(*command, "--dry-run", "--json").stdout)["runs"]
    assert all(one["done"] for one in again)
    first = read_records(out)[0]
    assert first.perplexity is not None
    assert first.base.name == str(model)
    assert first.evaluation["free"]["patched"]["reliability"]["exact"]["n"] == 1

    shown = run("report", out, "--html", page, "--csv", figures)
    assert shown.exit_code == 0, shown.stderr
    assert "the base itself" in shown.stdout
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert "efficacy" in figures.read_text(encoding="utf-8")
    data = json.loads(run("report", out, "--json").stdout)
    assert [one["arm"] for one in data["runs"]] == ["MoEEdit", "Woodbury, spread"]
    a, b = sorted(out.iterdir())
    compared = json.loads(run("report", a, b, "--json").stdout)
    assert compared["pairs"][0]["figures"]["efficacy"].keys() >= {"difference", "intervals_overlap"}
    assert "difference" in run("report", a, b).stdout


def test_a_failed_arm_is_named(run: Run, model: Path, edits: Path, suite: Path, tmp_path: Path) -> None:
    command = ["bench", "--suite", suite, "--model", model, "--edits", edits, "--out", tmp_path / "runs"]
    result = run(*command, "--layers", "99")
    assert result.exit_code == 0
    assert "MoEEdit: failed: layer 99 is out of range" in result.stdout
    assert "0 of 1 runs are done" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "nothing"], "Error: unknown suite 'nothing'"),
        (["--methods", "nothing"], "unknown method 'nothing': expected one of"),
        (["--modes", "all"], "'all': expected some of single, batch"),
        (["--seeds", "a"], "'a' is not a list of numbers"),
        (["--seeds", "0,0"], "seeds: expected different values"),
        (["--facts", "99"], "expected 99 facts, found 3: ask for fewer"),
        (["--set", "nowhere=1"], "no method of the suite has an option 'nowhere'"),
    ],
)
def test_mistakes_are_one_line(
    run: Run, model: Path, edits: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = run(
        "bench", "--model", model, "--edits", edits, "--out", tmp_path / "runs", "--dry-run", *arguments
    )
    assert result.exit_code
    assert message in " ".join(result.stderr.split())


def test_a_report_of_nothing_is_an_error(run: Run, tmp_path: Path) -> None:
    result = run("report", tmp_path)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {tmp_path} has no runs")

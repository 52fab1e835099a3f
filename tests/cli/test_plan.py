"""`moe-patch plan` and `build --dry-run`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import FACTS, Run


def test_a_plan_needs_no_weights(run: Run, model: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_bytes((model / "config.json").read_bytes())
    result = run("plan", "--model", config, "--facts", "7", "--gpu", "2xH100", "--ram", "64GiB", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["facts"] == 7
    assert found["device_map"] == {"0": 3}
    assert {stage["stage"] for stage in found["stages"]} >= {"trace", "own text", "targets"}


def test_a_plan_says_where_layers_lie(run: Run, model: Path) -> None:
    result = run("plan", "--model", model, "--facts", "7", "--gpu", "80GiB")
    assert result.exit_code == 0, result.stderr
    assert "3 on GPU 0" in result.stdout
    assert "times are those of A100" in result.stdout


def test_gpus_that_nobody_knows_are_named(run: Run, model: Path) -> None:
    result = run("plan", "--model", model, "--facts", "7", "--gpu", "2xABC")
    assert result.exit_code == 1
    assert "'ABC'" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_dry_run_resolves_everything_and_builds_nothing(
    run: Run, edits: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    given = ("--layers", "1", "--no-projection", "--set", "targets.steps=2")
    result = run("build", "--edits", edits, "--model", model, "--out", out, *given, "--dry-run", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["facts"] == len(FACTS)
    assert found["plan"]["layers"] == [1]
    sources = {option["option"]: option["from"] for option in found["options"]}
    assert sources["targets.steps"] == "given"
    assert not out.exists()
    assert "targets" in run("build", "--edits", edits, "--model", model, *given, "--dry-run").stdout


def test_a_dry_run_finds_mistakes(run: Run, edits: Path, model: Path) -> None:
    result = run("build", "--edits", edits, "--model", model, "--set", "targets.stpes=2", "--dry-run")
    assert result.exit_code == 1
    assert "targets.stpes" in result.stderr

"""Bypass patches on the command line: the commands that work with them, and those that refuse them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import FACTS, Run
from tests.tiny import tiny_model, tiny_tokenizer

SETTINGS = ("steps=3", "expert_width=4", "adapter_width=4", "experts=2", "variants=2", "learning_rate=0.01")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("The river of Ulm is wide.\nThe bridge in Bonn is old.\n")
    return path


def build(run: Run, model: Path, edits: Path, corpus: Path, out: Path, *more: str) -> dict:
    sets = [part for setting in (*SETTINGS, *more) for part in ("--set", setting)]
    result = run(
        *("build", "--method", "memoe", "--model", model, "--edits", edits, "--corpus", corpus),
        *("--layers", "1", "--out", out, "--json", *sets),
    )
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense")
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["model", "dense"])
def test_a_bypass_is_built_shown_asked_and_evaluated(
    run: Run, edits: Path, corpus: Path, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    model, out = request.getfixturevalue(kind), tmp_path / "bypass.safetensors"
    built = build(run, model, edits, corpus, out)
    assert (built["kind"], built["method"], built["layers"]) == ("bypass", "memoe", [])
    assert built["bypass"]["layer"] == 1
    assert sum(built["bypass"]["facts_by_expert"]) == len(FACTS)
    assert "2 experts of width 4 beside layer 1" in run("inspect", out).stdout
    assert json.loads(run("log", out, "--json").stdout)["log"][0]["layers"] == [1]
    asked = json.loads(run("ask", "--edits", edits, "--patch", out, "--model", model, "--json").stdout)
    assert len(asked["answers"]) == len(FACTS)
    scored = json.loads(run("eval", out, "--model", model, "--json").stdout)
    assert scored["locality"]["n"] == sum(len(fact.neighborhood) for fact in FACTS)
    assert (scored["routing"]["edited"] is None) == (kind == "dense")


def test_what_no_bypass_can_do_is_refused_with_the_reason(
    run: Run, model: Path, edits: Path, corpus: Path, tmp_path: Path
) -> None:
    out, stack = tmp_path / "bypass.safetensors", tmp_path / "moe-patch.stack"
    build(run, model, edits, corpus, out)
    other = tmp_path / "other.safetensors"
    build(run, model, edits, corpus, other, "seed=1")
    refused = [
        (("drop", out, "--fact", "0", "-o", tmp_path / "x.safetensors"), "trained on all facts together"),
        (("merge", "--model", model, "--patch", out, "--out", tmp_path / "merged"), "bypass"),
        (("export", out, "--format", "peft", "--model", model, "--out", tmp_path / "lora"), "bypass"),
        (("build", "--edits", edits, "--model", model, "--layers", "1,2", "--method", "memoe"), "one layer"),
    ]
    for command, reason in refused:
        result = run(*command)
        assert result.exit_code == 1, command
        assert reason in result.stderr
    assert "Settings" in run("diff", out, other).stdout
    assert run("stack", "init", out, other, "--stack", stack, "--allow-conflicts").exit_code == 0
    assert "bypass" in run("stack", "list", "--stack", stack).stdout
    checked = run("stack", "check", "--stack", stack)
    assert checked.exit_code == 1
    assert "both put a bypass beside layer 1" in checked.stdout


def test_a_dense_base_is_refused_to_methods_that_edit_experts(run: Run, dense: Path, edits: Path) -> None:
    result = run("build", "--model", dense, "--edits", edits, "--layers", "1", "--no-projection")
    assert result.exit_code == 1
    assert "llama is a dense model" in result.stderr

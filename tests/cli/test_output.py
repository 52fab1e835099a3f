"""`--out` and `--model` mean one thing in every command, and are checked before anything is opened."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.cli.test_group import commands


def test_out_and_force_go_together_and_have_short_forms() -> None:
    for name, command in commands().items():
        options = {option for parameter in command.params for option in parameter.opts}
        assert ("--out" in options) == ("-o" in options), name
        folders = {"merge", "unmerge", "export", "bench"}  # no model is replaced; finished runs are kept
        replaces = "--out" in options and name not in folders
        assert ("--force" in options) == (replaces or name == "push"), name  # which replaces a README


def test_no_help_shows_the_old_name_of_model(run: Run) -> None:
    for name, command in commands().items():
        shown = run(*name.split(), "--help").stdout
        assert "--base " not in shown, name
        if any("--base" in parameter.opts for parameter in command.params):
            assert "--model " in shown, name


def test_a_file_that_is_there_is_replaced_only_if_asked(run: Run, edits: Path, tmp_path: Path) -> None:
    out = tmp_path / "native.jsonl"
    out.write_text("mine")
    convert = ("facts", "convert", edits, "-o", out)
    refused = run(*convert)
    assert refused.exit_code == 1
    assert refused.stderr == (
        f"Error: {out} exists already: name another file with --out, or replace it with --force\n"
    )
    assert out.read_text() == "mine"
    assert run(*convert, "--force").exit_code == 0
    assert len(out.read_text().splitlines()) == 3


BAD = """
import sys
from moe_patch.cli import main
try:
    main(sys.argv[1:], prog_name="moe-patch")
except SystemExit as end:
    sys.exit(f"{end.code} {sorted({'torch', 'transformers'} & sys.modules.keys())}")
"""


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("build --edits facts.jsonl --out gone/p.safetensors", 2),
        ("build --edits facts.jsonl --out facts.jsonl", 1),
        ("build --edits facts.jsonl --method moedit", 1),
        ("build --edits facts.jsonl --layers 3-1", 2),
        ("drop facts.jsonl --fact x -o facts.jsonl", 1),
        ("facts convert facts.jsonl -o gone/facts.jsonl", 2),
        ("tune -o gone/recipe.yaml", 2),
        ("stack resolve -o facts.jsonl", 1),
        ("stack check --heatmap gone/heat.svg", 2),
        ("locate --plot gone/plot.svg", 2),
        ("merge --patch facts.jsonl --out here", 1),
        ("unmerge here --out here", 1),
        ("export facts.jsonl --format peft --out gone/lora", 1),
    ],
)
def test_what_cannot_be_written_is_said_before_torch_is_imported(
    tmp_path: Path, words: str, code: int
) -> None:
    (tmp_path / "facts.jsonl").write_text("{}")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "file").touch()
    done = subprocess.run(
        [sys.executable, "-c", BAD, *words.split()], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.stderr.splitlines()[-1] == f"{code} []", done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("Error: ")], done.stderr


def test_the_old_name_of_model_still_works_and_says_so(
    run: Run, model: Path, patch_file: Path, tmp_path: Path
) -> None:
    new = run("inspect", patch_file, "--model", model, "--json")
    old = run("inspect", patch_file, "--base", model, "--json")
    assert (old.exit_code, old.stdout) == (0, new.stdout)
    assert new.stderr == ""
    assert old.stderr == "Notice: --base is --model now; the old name goes with the next release.\n"
    both = run("merge", "--model", model, "--base", model, "--patch", patch_file, "--out", tmp_path / "out")
    assert both.exit_code == 2
    assert "--base is the old name of --model" in both.stderr


def test_verify_compares_files_or_asks_too(run: Run, model: Path, patch_file: Path) -> None:
    files = run("verify", patch_file, "--model", model, "--no-ask", "--json")
    old = run("verify", patch_file, "--base", model, "--json")
    asked = run("verify", patch_file, "--model", model, "--at-least", "0", "--json")
    checked = [json.loads(result.stdout)["checked"] for result in (files, old, asked)]
    assert checked[0] == checked[1] == ["file", "hash", "base", "sizes"]
    assert "edits" in checked[2]
    assert old.stderr.startswith("Notice: --base is --model with --no-ask now")


def test_who_names_no_model_is_told_which_one_it_is(run: Run, tmp_path: Path) -> None:
    planned = run("merge", "--patch", tmp_path / "none", "--out", tmp_path / "out")
    assert "demo model" not in planned.stderr  # nothing is opened
    shown = run("plan", "--facts", "1", "--ram", "1GiB", "--gpu", "H100", "--json")
    assert shown.exit_code == 0
    assert shown.stderr == "No --model was given: this is atlas, the demo model.\n"
    assert run("plan", "--facts", "1", "--model", "atlas", "--gpu", "H100", "--json").stderr == ""

"""`moe-patch merge` and `moe-patch unmerge`."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import AutoModelForCausalLM

from moe_patch.apply import apply
from moe_patch.model import wrap
from moe_patch.patch import load
from tests.cli.conftest import Run


def test_merge_and_back(run: Run, model: Path, patch_file: Path, tmp_path: Path) -> None:
    out, back = tmp_path / "out", tmp_path / "back"
    result = run("merge", "--base", model, "--patch", patch_file, "--out", out, "--json")
    written = json.loads(result.stdout)
    assert result.exit_code == 0
    assert f"{written['disk_bytes']:,} bytes" in result.stderr
    assert written["rewritten"] == ["model.safetensors"]
    patch = load(patch_file)
    assert written["record"] == json.loads((out / "moe_patch.json").read_text())
    assert [one["hash"] for one in written["record"]["patches"]] == [patch.hash]
    merged = AutoModelForCausalLM.from_pretrained(out).state_dict()
    base = wrap(AutoModelForCausalLM.from_pretrained(model), tokenizer=None)
    with apply(base, patch):
        assert all(bool((merged[name] == value).all()) for name, value in base.model.state_dict().items())
    removed = json.loads(run("unmerge", out, "--out", back, "--json").stdout)
    assert removed == {"out": str(back), "removed": [patch.hash]}
    assert {path.name for path in back.iterdir()} == {path.name for path in model.iterdir()}
    assert (back / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_a_dry_run_writes_nothing(run: Run, model: Path, patch_file: Path, tmp_path: Path) -> None:
    arguments = ("merge", "--base", model, "--patch", patch_file, "--out", tmp_path / "out")
    planned = json.loads(run(*arguments, "--dry-run", "--json").stdout)
    assert list(tmp_path.iterdir()) == []
    assert planned["rounding"] == "nearest"
    compensated = run(*arguments, "--dry-run", "--json", "--rounding", "compensated", "--recheck").stdout
    assert json.loads(compensated)["rounding"] == "compensated"
    assert planned["disk_bytes"] >= (model / "model.safetensors").stat().st_size
    shown = run(*arguments).stdout
    for text in (load(patch_file).hash, "model.safetensors", "lost to rounding"):
        assert text in shown
    written = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    record = (tmp_path / "out" / "moe_patch.json").stat().st_size
    assert planned["disk_bytes"] == written - record


def test_patches_or_a_stack_and_not_both(run: Run, model: Path, patch_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("merge", "--base", model, "--out", out).exit_code == 2
    both = run("merge", "--base", model, "--patch", patch_file, "--stack", patch_file, "--out", out)
    assert both.exit_code == 2
    assert "either patches, with --patch, or a stack, with --stack" in both.stderr


def test_expected_errors_are_one_line(run: Run, model: Path, patch_file: Path, tmp_path: Path) -> None:
    missing = run("merge", "--base", tmp_path / "none", "--patch", patch_file, "--out", tmp_path / "out")
    assert missing.exit_code == 1
    assert missing.stderr.startswith("Error: ")
    assert missing.stderr.count("\n") == 1
    plain = run("unmerge", model, "--out", tmp_path / "out")
    assert plain.stderr == f"Error: {model} has no moe_patch.json: it is no merged checkpoint\n"
    assert list(tmp_path.iterdir()) == []

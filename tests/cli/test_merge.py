"""`moe-patch merge` and `moe-patch unmerge`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from moe_patch.apply import apply
from moe_patch.base.opening import wrap
from moe_patch.io import model_place
from moe_patch.patch import load, save
from tests.cli.conftest import Run
from tests.tiny import tiny_base, tiny_patch


def test_merge_and_back(run: Run, model: Path, patch_file: Path, tmp_path: Path) -> None:
    out, back = tmp_path / "out", tmp_path / "back"
    result = run("merge", "--model", model, "--patch", patch_file, "--out", out, "--json")
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


def test_a_merge_onto_the_demo_model_is_undone_from_any_folder(
    run: Run, model: Path, patch_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record names it `atlas`, as the merged folder is called here too."""
    monkeypatch.setattr(model_place, "demo_model", lambda: model)
    monkeypatch.chdir(tmp_path)
    assert run("merge", "--patch", patch_file, "--out", "atlas").exit_code == 0
    assert json.loads(Path("atlas/moe_patch.json").read_text())["base_name"] == "atlas"
    for place, merged, out in ((tmp_path, "atlas", "back"), (tmp_path.parent, tmp_path / "atlas", "again")):
        monkeypatch.chdir(place)
        undone = run("unmerge", merged, "--out", tmp_path / out)
        assert undone.exit_code == 0, undone.stderr
        assert (tmp_path / out / "model.safetensors").read_bytes() == (
            model / "model.safetensors"
        ).read_bytes()


def test_a_merge_onto_a_folder_is_undone_from_any_folder(
    run: Run, model: Path, patch_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    assert run("merge", "--model", model.name, "--patch", patch_file, "--out", tmp_path / "m").exit_code == 0
    monkeypatch.chdir(tmp_path)
    itself = run("unmerge", "m", "--model", "m", "--out", "back")
    assert itself.exit_code == 1
    assert "is the merged folder itself" in itself.stderr
    assert run("unmerge", "m", "--out", "back").exit_code == 0


def test_a_stack_is_merged_as_the_patch_that_it_resolves_to(run: Run, model: Path, tmp_path: Path) -> None:
    base, paths = tiny_base("qwen3_moe"), []
    for seed, name in enumerate(("one", "two")):
        patch = tiny_patch(base, [1], seed=seed, scale=(0.3, 1.5)[seed])
        facts = tuple(
            replace(fact, id=f"{name}-{fact.id}", subject=f"{name}{fact.id}") for fact in patch.facts
        )
        paths.append(tmp_path / f"{name}.safetensors")
        save(replace(patch, facts=facts), paths[-1])
    lock = tmp_path / "moe-patch.stack"
    run("stack", "init", *paths, "--combine", "add", "--allow-conflicts", "--stack", lock)
    refused = run("merge", "--model", model, "--stack", lock, "--out", tmp_path / "out")
    assert refused.exit_code == 1  # the second moves the first one's facts by more than their edit
    allowed = run(
        "merge", "--model", model, "--stack", lock, "--allow-conflicts", "--out", tmp_path / "out", "--json"
    )
    assert allowed.exit_code == 0, allowed.stderr
    resolved = tmp_path / "all.safetensors"
    run("stack", "resolve", "-o", resolved, "--allow-conflicts", "--stack", lock)
    run("merge", "--model", model, "--patch", resolved, "--out", tmp_path / "other")
    weights = [(tmp_path / out / "model.safetensors").read_bytes() for out in ("out", "other")]
    assert weights[0] == weights[1] != (model / "model.safetensors").read_bytes()
    (record,) = json.loads(allowed.stdout)["record"]["patches"]
    assert len(record["facts"]) == 8


def test_a_dry_run_writes_nothing(run: Run, model: Path, patch_file: Path, tmp_path: Path) -> None:
    arguments = ("merge", "--model", model, "--patch", patch_file, "--out", tmp_path / "out")
    planned = json.loads(run(*arguments, "--dry-run", "--json").stdout)
    assert list(tmp_path.iterdir()) == []
    assert planned["rounding"] == "nearest"
    compensated = run(*arguments, "--dry-run", "--json", "--rounding", "compensated", "--recheck").stdout
    assert json.loads(compensated)["rounding"] == "compensated"
    assert planned["disk_bytes"] >= (model / "model.safetensors").stat().st_size
    shown = run(*arguments).stdout
    assert "other weights     │ none" in shown
    for text in (load(patch_file).hash, "model.safetensors", "lost to rounding"):
        assert text in shown
    written = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    record = (tmp_path / "out" / "moe_patch.json").stat().st_size
    assert planned["disk_bytes"] == written - record


def test_patches_or_a_stack_and_not_both(run: Run, model: Path, patch_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("merge", "--model", model, "--out", out).exit_code == 2
    both = run("merge", "--model", model, "--patch", patch_file, "--stack", patch_file, "--out", out)
    assert both.exit_code == 2
    assert "either patches, with --patch, or a stack, with --stack" in both.stderr


def test_expected_errors_are_one_line(run: Run, model: Path, patch_file: Path, tmp_path: Path) -> None:
    missing = run("merge", "--model", tmp_path / "none", "--patch", patch_file, "--out", tmp_path / "out")
    assert missing.exit_code == 1
    assert missing.stderr.startswith("Error: ")
    assert missing.stderr.count("\n") == 1
    plain = run("unmerge", model, "--out", tmp_path / "out")
    assert plain.stderr == f"Error: {model} has no moe_patch.json: it is not a merged checkpoint\n"
    assert list(tmp_path.iterdir()) == []


def test_what_is_many_times_as_large_as_its_expert_is_merged_only_if_allowed(
    run: Run, model: Path, patch_file: Path, tmp_path: Path
) -> None:
    patch, huge, out = load(patch_file), tmp_path / "huge.safetensors", tmp_path / "out"
    layers = {layer: replace(delta, left=1000 * delta.left) for layer, delta in patch.layers.items()}
    save(replace(patch, layers=layers), huge)
    refused = run("merge", "--model", model, "--patch", huge, "--out", out)
    assert (refused.exit_code, out.exists()) == (1, False)
    assert "times that of the expert itself" in refused.stderr
    assert run("verify", huge, "--model", model, "--no-ask").exit_code == 16
    allowed = run("verify", huge, "--model", model, "--no-ask", "--allow-large", "--json")
    assert (allowed.exit_code, json.loads(allowed.stdout)["largest"]["ratio"] > 100) == (0, True)
    assert run("merge", "--model", model, "--patch", huge, "--out", out, "--allow-large").exit_code == 0

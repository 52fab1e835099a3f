"""`moe-patch inspect`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moe_patch.cli.protection import preserved_line, protection_table
from moe_patch.patch import load
from tests.cli.conftest import Run
from tests.tiny import dense_delta, tiny_base


def test_json_holds_what_the_file_holds(run: Run, patch_file: Path) -> None:
    patch = load(patch_file)
    shown = json.loads(run("inspect", patch_file, "--json").stdout)
    assert {"facts", "layers", "experts", "bytes", "base", "hash"} <= shown.keys()
    assert [fact["target_new"] for fact in shown["facts"]] == [fact.target_new for fact in patch.facts]
    assert shown["experts"] == {str(layer): delta.experts() for layer, delta in patch.layers.items()}
    assert (shown["bytes"], shown["hash"]) == (patch_file.stat().st_size, patch.hash)
    assert shown["base"]["model_type"] == "qwen3_moe"


def test_norms_are_those_of_the_dense_deltas(run: Run, patch_file: Path) -> None:
    patch, base = load(patch_file), tiny_base("qwen3_moe")
    shown = json.loads(run("inspect", patch_file, "--json").stdout)
    for layer in shown["layers"]:
        dense = dense_delta(patch.layers[layer["layer"]], base.layer(layer["layer"]))  # (E, d_m, d_k)
        assert layer["norm"] == pytest.approx(float(dense.norm()), rel=1e-5)
        assert layer["largest_expert_norm"] == pytest.approx(float(dense.norm(dim=(1, 2)).max()), rel=1e-5)
    touched = sum(len(experts) for experts in shown["experts"].values())
    assert shown["dense_bytes"] == touched * dense[0].numel() * 4


def test_with_the_base_changes_are_compared_with_their_experts(
    run: Run, patch_file: Path, model: Path
) -> None:
    patch, base = load(patch_file), tiny_base("qwen3_moe")
    shown = json.loads(run("inspect", patch_file, "--model", model, "--json").stdout)
    for layer in shown["layers"]:
        known = base.layer(layer["layer"])
        dense = dense_delta(patch.layers[known.index], known).norm(dim=(1, 2))  # (E,)
        ratios = [float(dense[expert] / known.down(expert).norm()) for expert in range(known.num_experts)]
        assert layer["largest_ratio"] == pytest.approx(max(ratios), rel=1e-5)
    assert "times its expert" in run("inspect", patch_file, "--model", model).stdout


def test_the_tables_name_facts_layers_and_hash(run: Run, patch_file: Path) -> None:
    shown = run("inspect", patch_file).stdout
    for text in ("Town 3 lies in", "Land 3", "random (delta)", load(patch_file).hash, "norm of the delta"):
        assert text in shown


def test_a_broken_file_is_one_line(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(b"not a patch")
    result = run("inspect", path)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {path}: ")
    assert result.stderr.count("\n") == 1


def test_a_report_says_what_was_preserved_and_what_that_leaves() -> None:
    own = {"source": "own", "tokens": 33_026, "left_out": 0.004, "settled": True}
    assert preserved_line({"preserved_text": own}).startswith("the base's own, 33,026 tokens: enough")
    assert ": not enough" in preserved_line({"preserved_text": own | {"settled": False}})
    assert preserved_line({"preserved_text": {"source": "corpus"}}) == "as given"
    assert preserved_line({"preserved_text": None}) == "none"
    assert preserved_line({}) == ""
    layer = {"layer": 2, "protected": 0.26, "room_min": 0.125, "room_median": 0.5, "unseen": [3, 9]}
    table = protection_table({"protection": [layer, {"layer": 3, "rule": "tau 0.02"}]})
    assert table is not None
    assert [list(column.cells) for column in table.columns] == [["2"], ["26.0"], ["50.0"], ["12.5"], ["2"]]
    assert protection_table({"protection": []}) is None
    assert protection_table({}) is None

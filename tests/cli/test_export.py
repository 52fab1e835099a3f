"""`moe-patch export`."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

from safetensors import safe_open

from moe_patch.patch import load, save
from tests.cli.conftest import Run
from tests.tiny import tiny_base, tiny_patch


def test_the_rank_is_stated_and_the_patch_is_named(
    run: Run, model: Path, patch_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "adapter"
    shown = json.loads(
        run("export", patch_file, "--format", "peft", "--model", model, "--out", out, "--json").stdout
    )
    config = json.loads((out / "adapter_config.json").read_text())
    assert shown["rank"] == shown["rank_needed"] == config["r"] == config["lora_alpha"]
    assert shown["lost"] == {"worst": 0.0, "median": 0.0}
    assert config["target_parameters"] == [f"model.layers.{n}.mlp.experts.down_proj" for n in (0, 1)]
    with safe_open(out / "adapter_model.safetensors", framework="pt") as file:
        assert file.metadata()["moe_patch"] == load(patch_file).hash


def test_too_high_a_rank_is_an_error_until_truncation_is_allowed(
    run: Run, model: Path, patch_file: Path, tmp_path: Path
) -> None:
    arguments = (
        "export",
        patch_file,
        "--format",
        "peft",
        "--model",
        model,
        "--form",
        "split",
        "--max-rank",
        1,
    )
    out = tmp_path / "adapter"
    refused = run(*map(str, arguments), "--out", out)
    assert refused.exit_code == 1
    assert "1 is the highest allowed" in refused.stderr
    assert not out.exists()
    shown = run(*map(str, arguments), "--out", out, "--truncate").stdout
    assert "1, of" in shown
    with safe_open(out / "adapter_model.safetensors", framework="pt") as file:
        keys = set(file.keys())
    assert "base_model.model.model.layers.0.mlp.experts.3.down_proj.lora_A.weight" in keys


def test_another_base_is_refused(run: Run, patch_file: Path, model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save(tiny_patch(tiny_base("qwen3_moe", seed=1), [0]), other)
    result = run("export", other, "--format", "peft", "--model", model, "--out", tmp_path / "adapter")
    assert result.exit_code == 1
    assert "another base" in result.stderr


def test_a_change_far_larger_than_its_expert_is_refused_unless_allowed(
    run: Run, model: Path, patch_file: Path, tmp_path: Path
) -> None:
    patch = load(patch_file)
    layers = {layer: replace(delta, left=1000 * delta.left) for layer, delta in patch.layers.items()}
    save(replace(patch, layers=layers), tmp_path / "large.safetensors")
    arguments = ("export", tmp_path / "large.safetensors", "--format", "peft", "--model", model)
    refused = run(*arguments, "--out", tmp_path / "adapter")
    assert (refused.exit_code, "times that of the expert itself" in refused.stderr) == (1, True)
    assert not (tmp_path / "adapter").exists()
    assert run(*arguments, "--out", tmp_path / "adapter", "--allow-large").exit_code == 0


def test_a_quantised_base_is_held_to_its_sizes(
    run: Run, model: Path, patch_file: Path, tmp_path: Path
) -> None:
    quantised = shutil.copytree(model, tmp_path / "quantised")
    config = json.loads((quantised / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (quantised / "config.json").write_text(json.dumps(config))
    result = run(
        "export", patch_file, "--format", "peft", "--model", quantised, "--out", tmp_path / "adapter"
    )
    assert result.exit_code == 0
    assert "is quantised (fp8): only its sizes could be checked" in result.stderr
    wide = tmp_path / "wide.safetensors"
    save(tiny_patch(tiny_base("qwen3_moe", moe_intermediate_size=32), [0]), wide)
    result = run("export", wide, "--format", "peft", "--model", quantised, "--out", tmp_path / "other")
    assert "the MoE layers of" in result.stderr


def test_vllms_form_follows_the_architecture_and_says_what_room_it_needs(
    run: Run, model: Path, patch_file: Path, tmp_path: Path
) -> None:
    arguments = ("export", patch_file, "--format", "vllm-lora", "--model", model)
    shown = json.loads(run(*arguments, "--out", tmp_path / "one", "--json").stdout)
    assert (shown["form"], shown["rank"], shown["max_lora_rank"]) == ("split", 4, 8)
    config = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert (config["r"], config["rank_pattern"]) == (4, {"gate_proj": 1, "up_proj": 1})
    table = run(*arguments, "--form", "packed", "--out", tmp_path / "two").stdout
    assert "--enable-lora --max-lora-rank 8" in table
    with safe_open(tmp_path / "two" / "adapter_model.safetensors", framework="pt") as file:
        assert "base_model.model.model.layers.0.mlp.experts.base_layer.lora_A.weight" in set(file.keys())

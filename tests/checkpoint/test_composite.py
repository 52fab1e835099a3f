"""Text models inside multimodal checkpoints, such as Qwen3.5 and 3.6, with experts packed or one by one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForImageTextToText, Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration

from moe_patch.apply import apply
from moe_patch.base.opening import open_base, wrap
from moe_patch.checkpoint import open_checkpoint, plan_merge
from tests.architectures.configs import COMMON
from tests.checkpoint.folders import same_bits, state
from tests.tiny import CONFIGS, tiny_patch, tiny_tokenizer

VISION = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_heads": 2,
    "out_hidden_size": COMMON["hidden_size"],
}
EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")


def packed(split: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights as the published checkpoints name them: one tensor for all experts of a layer."""
    tensors = {name: tensor for name, tensor in split.items() if not EXPERT.fullmatch(name)}
    for prefix in sorted({match[1] for name in split if (match := EXPERT.fullmatch(name))}):
        count = sum(name.startswith(prefix) for name in split) // 3
        gate, up, down = (
            [split[f"{prefix}.{expert}.{part}_proj.weight"] for expert in range(count)]
            for part in ("gate", "up", "down")
        )
        tensors[f"{prefix}.gate_up_proj"] = torch.cat([torch.stack(gate), torch.stack(up)], dim=1)
        tensors[f"{prefix}.down_proj"] = torch.stack(down)
    return tensors


@pytest.fixture(params=["split", "packed"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = Qwen3_5MoeConfig(text_config={**COMMON, **CONFIGS["qwen3_5_moe_text"]}, vision_config=VISION)
    folder = tmp_path / "base"
    Qwen3_5MoeForConditionalGeneration(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    if request.param == "packed":
        weights = folder / "model.safetensors"
        save_file(packed(load_file(weights)), weights, metadata={"format": "pt"})
    return folder


def test_the_text_model_and_the_whole_model_are_one_base(folder: Path) -> None:
    text = open_base(folder)
    whole = wrap(AutoModelForImageTextToText.from_pretrained(folder), text.tokenizer)
    seeing, alone = whole.fingerprint(whole.layers), text.fingerprint(text.layers)
    assert seeing.nodes.pop("towers")
    assert seeing == alone
    assert open_checkpoint(folder).fingerprint(text.layers) == text.fingerprint(text.layers)


def test_a_merge_keeps_the_rest_of_the_checkpoint(folder: Path, tmp_path: Path) -> None:
    base = open_base(folder)
    patch = tiny_patch(base)
    plan_merge(open_checkpoint(folder), [patch], tmp_path / "out").run()
    before, after = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "out"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys()
    assert changed
    assert all(".experts." in name and "down_proj" in name for name in changed)
    with apply(base, patch):
        assert same_bits(state(base), state(open_base(tmp_path / "out")))

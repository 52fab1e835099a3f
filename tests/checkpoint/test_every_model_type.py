"""Merging on disk equals merging in memory, to the bit, for all names and layouts of checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from moe_patch.apply import apply
from moe_patch.checkpoint import open_checkpoint, plan_merge, unmerge_checkpoint
from tests.architectures.configs import COMMON, NOT_ALONE
from tests.checkpoint.folders import files, opened, same_bits, saved, state
from tests.tiny import CONFIGS, tiny_patch

SQUARE: dict[str, tuple[str, dict[str, Any]]] = {
    "square-qwen3_moe": ("qwen3_moe", {"moe_intermediate_size": 32}),
    "square-aria_text": ("aria_text", {"intermediate_size": 32}),
    "square-qwen3_vl_moe": (
        "qwen3_vl_moe",
        {"text_config": {**COMMON, **NOT_ALONE["qwen3_vl_moe_text"], "moe_intermediate_size": 32}},
    ),
    "oblong-gpt_oss": ("gpt_oss", {"intermediate_size": 48}),
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in CONFIGS} | {
    name: case for name, case in SQUARE.items() if case[0] in CONFIGS
}


@pytest.mark.parametrize("case", CASES)
def test_the_folder_holds_what_a_merge_in_memory_gives(case: str, tmp_path: Path) -> None:
    model_type, overrides = CASES[case]
    folder = saved(tmp_path / "base", model_type, **overrides)
    base = opened(folder, model_type)
    patches = [tiny_patch(base, seed=1), tiny_patch(base, [max(base.layers)], seed=2)]
    plan_merge(open_checkpoint(folder), patches, tmp_path / "out").run()
    plain, found = state(base), state(opened(tmp_path / "out", model_type))
    with apply(base, patches[0]), apply(base, patches[1]):
        assert same_bits(found, state(base))
    assert not same_bits(found, plain)
    unmerge_checkpoint(tmp_path / "out", tmp_path / "back", base=folder)
    assert files(tmp_path / "back") == files(folder)


@pytest.mark.parametrize("case", CASES)
def test_the_folder_and_the_opened_model_are_one_base(case: str, tmp_path: Path) -> None:
    model_type, overrides = CASES[case]
    for dtype in (torch.float32, torch.bfloat16):
        folder = saved(tmp_path / str(dtype), model_type, dtype, **overrides)
        base = opened(folder, model_type)
        found = base.fingerprint(base.layers)
        assert open_checkpoint(folder).fingerprint(base.layers) == found
        assert found.nodes.keys() >= {"embeddings", "head", *map(str, range(base.num_layers))}
    base.model.float()  # the same numbers in a wider dtype
    assert base.fingerprint(base.layers) == found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss"])
def test_in_every_float_dtype(model_type: str, dtype: torch.dtype, tmp_path: Path) -> None:
    folder = saved(tmp_path / "base", model_type, dtype)
    base = opened(folder, model_type)
    patch = tiny_patch(base)
    assert open_checkpoint(folder).fingerprint(base.layers) == patch.base
    plan_merge(open_checkpoint(folder), [patch], tmp_path / "out").run()
    with apply(base, patch):
        assert same_bits(state(opened(tmp_path / "out", model_type)), state(base))


@pytest.mark.parametrize("model_type", ["qwen3_moe", "mixtral", "jamba"])
def test_a_family_that_is_split_by_custom_but_packed_here(model_type: str, tmp_path: Path) -> None:
    """The loader also accepts the names that tensors have in memory."""
    folder = saved(tmp_path / "base", model_type)
    base = opened(folder, model_type)
    for path in folder.glob("model*"):
        path.unlink()
    save_file(
        {name: tensor.contiguous() for name, tensor in state(base).items()}, folder / "model.safetensors"
    )
    patch = tiny_patch(base)
    plan_merge(open_checkpoint(folder), [patch], tmp_path / "out").run()
    with apply(base, patch):
        assert same_bits(state(opened(tmp_path / "out", model_type)), state(base))

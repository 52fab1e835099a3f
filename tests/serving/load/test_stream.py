"""A patch added to streaming tensors, against the same patch merged into the files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from moe_patch.base.model import Base
from moe_patch.checkpoint import Checkpoint, open_checkpoint, plan_merge
from moe_patch.errors import ModelError, OversizedEdit, WrongBase
from moe_patch.patch import Patch
from moe_patch_serving.load.stream import PatchedStream
from tests.checkpoint.folders import opened, saved
from tests.tiny import tiny_patch, tiny_whole_patch

LAYOUTS = {  # model type: how its checkpoint stores down projections
    "qwen3_moe": "one by one",
    "mixtral": "one by one, under names of its own",
    "granitemoe": "a layer's together",
    "gpt_oss": "a layer's together, turned around, and square",
}


def tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    for name in checkpoint.weights:
        yield from load_file(checkpoint.folder / name).items()


@pytest.mark.parametrize("patched", [tiny_patch, tiny_whole_patch])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model_type", LAYOUTS)
def test_what_streams_past_is_what_a_merge_would_have_written(
    model_type: str, dtype: torch.dtype, patched: Callable[[Base], Patch], tmp_path: Path
) -> None:
    folder = saved(tmp_path / "base", model_type, dtype)
    patch = patched(opened(folder, model_type))
    checkpoint = open_checkpoint(folder)
    stream = PatchedStream(checkpoint, patch, dtype)
    found = dict(stream.apply(tensors(checkpoint)))
    stream.finish()
    plan_merge(checkpoint, [patch], tmp_path / "merged").run()
    merged, base = dict(tensors(open_checkpoint(tmp_path / "merged"))), dict(tensors(checkpoint))
    assert found.keys() == merged.keys()
    assert all(torch.equal(found[name], merged[name]) for name in merged)
    assert not all(torch.equal(found[name], base[name]) for name in base)


def test_an_engine_that_computes_in_more_bits_than_are_stored_gets_them(tmp_path: Path) -> None:
    folder = saved(tmp_path / "base", "qwen3_moe", torch.bfloat16)
    patch = tiny_patch(opened(folder, "qwen3_moe"), [1])
    checkpoint = open_checkpoint(folder)
    found = dict(PatchedStream(checkpoint, patch, torch.float32).apply(tensors(checkpoint)))
    wide = {name for name, tensor in found.items() if tensor.dtype == torch.float32}
    assert wide == {checkpoint.slots[1][expert].name for expert in patch.layers[1].experts()}
    assert any(not torch.equal(found[name], found[name].bfloat16().float()) for name in wide)


def test_a_change_that_met_no_tensor_is_an_error(tmp_path: Path) -> None:
    folder = saved(tmp_path / "base", "qwen3_moe")
    patch = tiny_patch(opened(folder, "qwen3_moe"), [1])
    checkpoint = open_checkpoint(folder)
    stream = PatchedStream(checkpoint, patch, torch.float32)
    withheld = checkpoint.slots[1][3].name
    for _ in stream.apply((name, tensor) for name, tensor in tensors(checkpoint) if name != withheld):
        pass
    stream.finish(present={0, 1, 2})  # an expert-parallel worker that reads only these
    with pytest.raises(ModelError, match=rf"1 tensors.*{withheld}"):
        stream.finish()


def test_a_change_far_larger_than_its_expert_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    folder = saved(tmp_path / "base", "qwen3_moe")
    patch = tiny_patch(opened(folder, "qwen3_moe"), [1], scale=300.0)
    checkpoint = open_checkpoint(folder)
    with pytest.raises(OversizedEdit, match="layer 1, expert"):
        PatchedStream(checkpoint, patch, torch.float32)
    stream = PatchedStream(checkpoint, patch, torch.float32, allow_large=True)
    found = dict(stream.apply(tensors(checkpoint)))
    plan_merge(checkpoint, [patch], tmp_path / "merged", allow_large=True).run()
    merged = dict(tensors(open_checkpoint(tmp_path / "merged")))
    assert all(torch.equal(found[name], merged[name]) for name in merged)


def test_another_base_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    patch = tiny_patch(opened(saved(tmp_path / "one", "qwen3_moe"), "qwen3_moe"), [1])
    other = open_checkpoint(saved(tmp_path / "other", "qwen3_moe", seed=1))
    with pytest.raises(WrongBase, match="expert weights of layer 1"):
        PatchedStream(other, patch, torch.float32)

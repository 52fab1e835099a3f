"""Merged checkpoints under vLLM's own loader."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from moe_patch.base.opening import open_base
from moe_patch.checkpoint import open_checkpoint, plan_merge
from tests.serving.engines import base, folder, greedy, start
from tests.tiny import tiny_patch


@pytest.mark.parametrize("model", ["atlas", "qwen3_moe"])
def test_an_engine_on_a_merged_checkpoint_says_what_transformers_says(model: str, tmp_path: Path) -> None:
    patch, out = tiny_patch(base(model), scale=0.4), tmp_path / "merged"
    plan_merge(open_checkpoint(folder(model)), [patch], out, keep_originals=True).run()
    said = start(out).greedy()
    assert said == greedy(open_base(out, dtype=torch.float32))
    assert said != greedy(base(model))

"""Merged checkpoints under the transformers that users still have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from moe_patch.base.model import Base
from tests.engines.merged import CHECKPOINTS, merged, opened, outside, texts, unmerged


def logits(base: Base, rows: list[list[int]]) -> torch.Tensor:
    """What the model makes of the last token of each row, (rows, V)."""
    with torch.inference_mode():
        return torch.stack([base.model(torch.tensor([row])).logits[0, -1] for row in rows])


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_it_reads_the_same_ids_and_computes_the_same(name: str, tmp_path: Path) -> None:
    out = tmp_path / "older.safetensors"
    outside("older_transformers.py", "read", merged(name), out, given=texts())
    ids = opened(merged(name)).tokenizer(texts())["input_ids"]
    some = [row for row in ids[::10] if row]
    with safe_open(out, "pt") as older:
        assert json.loads(older.metadata()["ids"]) == ids
        found = older.get_tensor("logits")
    torch.testing.assert_close(found, logits(opened(merged(name)), some), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, logits(opened(unmerged(name)), some), rtol=0.1, atol=0.1)

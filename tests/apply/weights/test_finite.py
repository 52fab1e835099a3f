"""A patch whose sum with a weight is not finite is refused wherever weights are written."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from moe_patch.apply import apply
from moe_patch.apply.weights.finite import require_finite
from moe_patch.checkpoint import open_checkpoint, plan_merge
from moe_patch.errors import NotFinite
from moe_patch.export.lora import to_lora
from moe_patch.patch import Patch
from tests.checkpoint.folders import opened, same_bits, saved, state
from tests.tiny import tiny_patch


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_one_element_is_enough(value: float) -> None:
    weight = torch.zeros(3, 4, dtype=torch.bfloat16)
    require_finite(weight, 1, 2)
    weight[2, 3] = value
    with pytest.raises(NotFinite, match="layer 1, expert 2"):
        require_finite(weight, 1, 2)


def too_large(patch: Patch) -> Patch:
    """Its tensors are finite, but their products are not."""
    delta = patch.layers[1]
    rows = dataclasses.replace(delta.rows, value=delta.rows.value * 1e30)
    changed = dataclasses.replace(delta, left=delta.left * 1e30, rows=rows, fact_rows=rows)
    return dataclasses.replace(patch, layers={1: changed})


def test_nothing_is_written_anywhere(tmp_path: Path) -> None:
    folder = saved(tmp_path / "base", "qwen3_moe")
    base = opened(folder, "qwen3_moe")
    patch, before = too_large(tiny_patch(base, [1])), state(base)
    with pytest.raises(NotFinite, match="layer 1, expert"):
        apply(base, patch, allow_large=True)
    assert same_bits(state(base), before)
    assert not base.layer(1).originals
    with pytest.raises(NotFinite, match="layer 1, expert"):
        plan_merge(open_checkpoint(folder), [patch], tmp_path / "out", allow_large=True).run()
    assert not (tmp_path / "out").exists()
    with pytest.raises(NotFinite, match="layer 1, expert"):
        to_lora(patch, base)

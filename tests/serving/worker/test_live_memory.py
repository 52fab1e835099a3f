"""Patches that went on and off leave no memory behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from moe_patch.patch import save
from tests.serving.engines import base, served
from tests.tiny import tiny_patch

psutil = pytest.importorskip("psutil")

CHANGES = 20
TOLERANCE = 8 * 2**20  # bytes; the originals of one change are more than half of that


def test_memory_is_where_it_was_after_many_changes(tmp_path: Path) -> None:
    engine, patch = served("atlas"), tiny_patch(base("atlas"), [1, 2])
    save(patch, tmp_path / "p.safetensors")

    def change(times: int) -> None:
        for _ in range(times):
            on = engine.rpc("add", str(tmp_path / "p.safetensors"), patch.hash)
            assert on["bytes_kept"] > TOLERANCE / 2
            assert engine.rpc("remove", patch.hash)["bytes_kept"] == 0

    change(3)  # after which allocators have what they need
    before = psutil.Process().memory_info().rss
    change(CHANGES)
    assert psutil.Process().memory_info().rss - before < TOLERANCE

"""Patches by vLLM's own weight transfer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import moe_patch
from moe_patch.errors import ConfigError, HashMismatch, StackError
from moe_patch.patch import Patch, save
from tests.serving.engines import Engine, base, greedy, start
from tests.tiny import tiny_patch


@pytest.fixture(scope="module")
def engine() -> Engine:
    engine = start("qwen3_moe", weight_transfer_config={"backend": "moe_patch"})
    engine.llm.collective_rpc("init_weight_transfer_engine", args=({},))
    return engine


@pytest.fixture
def patch(tmp_path: Path) -> Iterator[Patch]:
    patch = tiny_patch(base("qwen3_moe"), scale=0.4)
    save(patch, tmp_path / "patch.safetensors")
    return patch


def update(engine: Engine, **change: Any) -> None:
    """One update session."""
    engine.llm.collective_rpc("start_weight_update")
    engine.llm.collective_rpc("update_weights", args=(change,))
    engine.llm.collective_rpc("finish_weight_update")


def test_an_update_adds_and_another_removes(engine: Engine, patch: Patch, tmp_path: Path) -> None:
    before, path = engine.weights(), str(tmp_path / "patch.safetensors")
    update(engine, add=path, hash=patch.hash, position=1)
    assert engine.rpc("state")["patches"] == [patch.hash]  # seen by the worker extension too
    with moe_patch.apply(base("qwen3_moe"), patch):
        assert engine.greedy() == greedy(base("qwen3_moe"))
    update(engine, reorder=[patch.hash])
    update(engine, remove=patch.hash)
    assert engine.weights() == before


def test_updates_that_cannot_be_change_nothing(engine: Engine, patch: Patch, tmp_path: Path) -> None:
    before, path = engine.weights(), str(tmp_path / "patch.safetensors")
    for change, error in (
        ({}, ConfigError),
        ({"add": path}, ConfigError),
        ({"add": path, "hash": patch.hash, "remove": patch.hash}, ConfigError),
        ({"remove": patch.hash, "hash": patch.hash}, ConfigError),
        ({"add": path, "hash": "sha256:" + "0" * 64}, HashMismatch),
        ({"remove": patch.hash}, StackError),
        ({"names": []}, ValueError),
    ):
        with pytest.raises(error):
            update(engine, **change)
    assert engine.weights() == before

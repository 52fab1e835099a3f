"""What an engine on the CPU may take of the machine's memory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from moe_patch_serving.launch import memory
from moe_patch_serving.launch.memory import cpu_memory_share, stored_bytes

GIB = 2**30


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(total=100 * GIB, available=40 * GIB)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: found)


@pytest.mark.parametrize(("weights", "share"), [(0, 0.20), (10, 0.20), (30, 0.32), (60, 0.36)])
def test_it_is_half_of_what_is_free_or_what_the_weights_need(weights: int, share: float) -> None:
    assert cpu_memory_share(weights * GIB, [], {}) == share


@pytest.mark.parametrize(
    "arguments",
    [["--gpu-memory-utilization", "0.3"], ["--gpu_memory_utilization=0.3"], ["--kv-cache-memory-bytes", "1"]],
)
def test_who_has_decided_is_left_alone(arguments: list[str]) -> None:
    assert cpu_memory_share(0, ["--port", "1", *arguments], {}) is None
    assert cpu_memory_share(0, ["--port", "1"], {"VLLM_CPU_KVCACHE_SPACE": "1"}) is None


def test_a_machine_that_is_full_gets_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    full = SimpleNamespace(total=100 * GIB, available=GIB // 2)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: full)
    assert cpu_memory_share(0, [], {}) == 0.01


def test_weights_are_counted_on_the_disk(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"12345")
    (tmp_path / "config.json").write_bytes(b"1")
    assert stored_bytes(tmp_path) == 5
    assert stored_bytes(Path("org/name")) == 0

"""Processor, cache and disk, and that reports contain no user's name."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from moe_patch.doctor import find_devices, storage_info, system_info
from moe_patch.doctor.environment import without_home
from moe_patch.io import cache
from moe_patch.io.cache import cache_folder, fresh_cache


def test_the_system_is_that_of_this_process() -> None:
    found = system_info()
    assert found.python.endswith(platform.python_version())
    assert found.instructions == torch.backends.cpu.get_cpu_capability()
    assert found.threads == torch.get_num_threads()
    assert found.processor


def test_the_cpu_is_a_device_with_memory() -> None:
    cpu = find_devices()[0]
    assert cpu.name == "cpu"
    assert cpu.free is not None
    assert cpu.total is not None
    assert 0 < cpu.free < cpu.total


def test_the_cache_is_counted() -> None:
    assert (storage_info().cache_files, storage_info().cache_bytes) == (0, 0)
    cache.store_tensors("a", {"key": 1}, {"value": torch.zeros(100)})
    cache.store_tensors("b", {"key": 1}, {"value": torch.zeros(100)})
    files = [path for path in cache_folder().rglob("*") if path.is_file()]
    found = storage_info()
    assert found.cache_files == len(files) == 2
    assert found.cache_bytes == sum(path.stat().st_size for path in files)
    assert found.free_at_cache > 0
    assert found.free_at_work > 0


def test_the_home_folder_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MOE_PATCH_CACHE", str(tmp_path / "cache"))
    assert storage_info().cache == str(Path("~") / "cache")
    assert without_home(f"cannot open '{tmp_path}', {tmp_path}/a or {tmp_path}-b") == (
        f"cannot open '~', ~/a or {tmp_path}-b"
    )
    monkeypatch.setenv("HOME", "/")
    assert without_home("/a/b") == "/a/b"


def test_a_fresh_cache_is_empty_and_goes() -> None:
    address = {"key": 1}
    cache.store_tensors("a", address, {"value": torch.zeros(1)})
    with fresh_cache():
        fresh = cache_folder()
        assert cache.load_tensors("a", address) is None
        cache.store_tensors("a", {"key": 2}, {"value": torch.ones(1)})
        assert cache.load_tensors("a", {"key": 2}) is not None
    assert not fresh.exists()
    assert cache.load_tensors("a", {"key": 2}) is None
    assert cache.load_tensors("a", address) is not None

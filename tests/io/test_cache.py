"""The tensor cache: entries are found by what they were made from, and ignored if damaged."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from moe_patch.errors import ConfigError
from moe_patch.io import cache

ADDRESS = {"layer": 3, "base": {"index": "sha256:0"}}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOE_PATCH_CACHE", str(tmp_path))
    return tmp_path


def stored(folder: Path) -> Path:
    cache.store_tensors(
        "moments", ADDRESS, {"second": torch.arange(6.0).reshape(2, 3), "tokens": torch.tensor([4])}
    )
    (entry,) = (folder / "moments").iterdir()
    return entry


def test_what_was_stored_is_found_at_its_address_only(folder: Path) -> None:
    stored(folder)
    found = cache.load_tensors("moments", {"base": {"index": "sha256:0"}, "layer": 3})
    assert found is not None
    assert torch.equal(found["second"], torch.arange(6.0).reshape(2, 3))
    assert found["tokens"].dtype is torch.int64
    assert cache.load_tensors("moments", {**ADDRESS, "layer": 4}) is None
    assert cache.load_tensors("factors", ADDRESS) is None


@pytest.mark.parametrize("damage", ["cut", "flip", "swap", "empty"])
def test_a_damaged_entry_is_reported_and_not_used(
    folder: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    entry = stored(folder)
    content = bytearray(entry.read_bytes())
    if damage == "swap":  # a whole entry, but of another address
        entry.unlink()
        cache.store_tensors("moments", {**ADDRESS, "layer": 9}, {"second": torch.ones(1)})
        (other,) = (folder / "moments").iterdir()
        content = bytearray(other.read_bytes())
    elif damage == "flip":
        content[-1] ^= 1
    else:
        content = content[: len(content) // 2 if damage == "cut" else 0]
    entry.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert cache.load_tensors("moments", ADDRESS) is None
    assert str(entry) in caplog.text
    cache.store_tensors("moments", ADDRESS, {"second": torch.zeros(2)})
    assert cache.load_tensors("moments", ADDRESS) is not None


def test_an_entry_that_cannot_be_written_is_reported_and_does_not_stop_the_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "file").write_text("in the way")
    monkeypatch.setenv("MOE_PATCH_CACHE", str(folder / "file"))
    with caplog.at_level(logging.WARNING):
        cache.store_tensors("moments", ADDRESS, {"second": torch.ones(1)})
        for layer in (1, 2):
            assert cache.load_tensors("moments", {"layer": layer}) is None
    (warning,) = caplog.messages
    assert warning.startswith("moments cannot be cached")
    assert warning.endswith("/file: Not a directory")


@pytest.mark.parametrize("refused", ["stat", "open"])
def test_a_folder_that_may_not_be_read_is_said_once_and_does_not_stop_the_work(
    folder: Path, refused: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stored(folder)

    def refuse(*_: object, **__: object) -> NoReturn:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        if refused == "stat":
            patched.setattr(Path, "exists", refuse)
        else:
            patched.setattr(cache, "safe_open", refuse)
        assert cache.load_tensors("moments", ADDRESS) is None
        assert cache.load_tensors("moments", ADDRESS) is None
    assert caplog.messages == [
        f"cached moments cannot be read, so they are computed: {folder}: Permission denied"
    ]
    assert cache.load_tensors("moments", ADDRESS) is not None


def test_without_a_home_nothing_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: type[Path]) -> NoReturn:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("MOE_PATCH_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", classmethod(nobody))
    cache.store_tensors("moments", ADDRESS, {"second": torch.ones(1)})
    assert cache.load_tensors("moments", ADDRESS) is None
    with pytest.raises(ConfigError, match="set MOE_PATCH_CACHE"):
        cache.cache_folder()


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOE_PATCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.cache_folder() == Path("/somewhere/moe-patch")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache.cache_folder() == Path("/home/someone/.cache/moe-patch")


def test_a_bounded_kind_loses_what_was_unused_for_longest(folder: Path) -> None:
    def address(number: int) -> dict[str, int]:
        return {"number": number}

    def entries() -> list[Path]:
        return list((folder / "targets").iterdir())

    for number in range(3):
        cache.store_tensors("targets", address(number), {"value": torch.full((256,), float(number))})
    for age, path in enumerate(sorted(entries(), key=lambda path: path.stat().st_mtime_ns)):
        os.utime(path, ns=(age, age))
    assert cache.load_tensors("targets", address(0)) is not None  # used, and so the youngest
    size = max(path.stat().st_size for path in entries())
    cache.store_tensors("moments", address(1), {"second": torch.zeros(1)})
    cache.store_tensors("targets", address(3), {"value": torch.ones(256)}, limit=2 * size)
    kept = [number for number in range(4) if cache.load_tensors("targets", address(number)) is not None]
    assert kept == [0, 2, 3]
    cache.store_tensors("targets", address(4), {"value": torch.ones(256)}, limit=0)
    assert [path.name for path in entries()] == [cache._path("targets", address(4)).name]
    assert cache.load_tensors("moments", address(1)) is not None

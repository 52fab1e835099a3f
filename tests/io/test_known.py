"""Known hashes are found again by the identity of the files, and never for a file that changed."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from moe_patch.errors import ModelError
from moe_patch.io.known import Known, known_hash

HASH = "ab" * 32


class Counter:
    """A computation that counts its calls."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> str:
        self.made += 1
        return HASH


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.arange(8.0)}, path)
    return aged(path)


def aged(path: Path, seconds: float = 60) -> Path:
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


def test_the_same_file_is_hashed_once(file: Path) -> None:
    compute = Counter()
    assert [known_hash("file", [file], compute) for _ in range(3)] == [HASH] * 3
    assert compute.made == 1
    assert known_hash("layer 1", [file], compute) == HASH
    assert compute.made == 2
    known_hash("file", [file], compute, fresh=True)
    assert compute.made == 3


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    aged(path, 30)


def exchange(path: Path) -> None:
    """Put another file of the same size and time of change in its place."""
    stat = path.stat()
    shutil.copyfile(path, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def rename_tensor(path: Path) -> None:
    """Change the file in place, and set the time of change back."""
    stat = path.stat()
    path.write_bytes(path.read_bytes().replace(b"weight", b"weighs"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def grow(path: Path) -> None:
    stat = path.stat()
    path.write_bytes(path.read_bytes() + b"x")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("change", [overwrite, exchange, rename_tensor, grow])
def test_a_file_that_changed_is_another(file: Path, change: Callable[[Path], None]) -> None:
    compute = Counter()
    known_hash("file", [file], compute)
    change(file)
    known_hash("file", [file], compute)
    assert compute.made == 2


def test_a_copy_elsewhere_is_another(file: Path, tmp_path: Path) -> None:
    compute = Counter()
    known_hash("file", [file], compute)
    known_hash("file", [Path(shutil.copy2(file, tmp_path / "other.safetensors"))], compute)
    assert compute.made == 2


def test_what_changed_a_moment_ago_could_change_again_unseen(file: Path) -> None:
    compute = Counter()
    aged(file, 0)
    known_hash("file", [file], compute)
    known_hash("file", [file], compute)
    assert compute.made == 2


def test_what_changes_while_it_is_hashed_is_not_remembered(file: Path) -> None:
    compute = Counter()

    def changing() -> str:
        overwrite(file)
        return compute()

    known_hash("file", [file], changing)
    known_hash("file", [file], compute)
    assert compute.made == 2


def test_a_file_that_vanishes_is_named(file: Path) -> None:
    def vanishing() -> str:
        file.unlink()
        return HASH

    def reading() -> str:
        return file.read_text()

    known = Known.of("file", [file])
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read: No such file"):
        known_hash("file", [file], vanishing)
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read"):
        known_hash("file", [], reading)
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read"):
        Known.of("file", [file])
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read"):
        known.store({})

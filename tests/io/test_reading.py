"""Reading never blocks, never goes past a limit, and takes ordinary files only."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from moe_patch.io.reading import opened_file, read_exactly, read_file, read_text


def test_a_file_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"12345")
    assert read_file(path, 5) == b"12345"
    with pytest.raises(OSError, match="longer than 4 bytes") as caught:
        read_file(path, 4)
    assert caught.value.errno == errno.EFBIG


def test_text_is_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"\xff")
    with pytest.raises(UnicodeDecodeError):
        read_text(path, 10)


@pytest.mark.parametrize("what", ["pipe", "folder", "/dev/zero"])
def test_only_ordinary_files(tmp_path: Path, what: str) -> None:
    path = tmp_path / "f"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        path = Path(what)
    with pytest.raises(OSError, match="not an ordinary file"):
        read_file(path, 10)


def test_a_file_that_shrinks_gives_what_is_left(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"12345")
    with opened_file(path) as (file, size):
        os.truncate(path, 2)
        assert (read_exactly(file, size), size) == (bytearray(b"12"), 5)

"""Copies with new bytes in some places, by every way of copying that a system may have."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from moe_patch.checkpoint import rewrite
from moe_patch.checkpoint.rewrite import Piece, write_changed

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(rewrite, "_CHUNK", 1000)
    monkeypatch.setattr(rewrite, "_FLUSH", 3000)
    (tmp_path / "source").write_bytes(CONTENT)
    return tmp_path / "source"


@pytest.fixture(params=["kernel", "refused", "absent"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three ways: the kernel copies, the kernel refuses to copy, or there is no such call."""
    if request.param == "refused":

        def refuse(*_: Any) -> int:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

        monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    if request.param == "absent":
        monkeypatch.delattr(os, "copy_file_range", raising=False)


def pieces(*at: int) -> list[Piece]:
    return [(begin, memoryview(b"new bytes")) for begin in at]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("at", [(), (0,), (len(CONTENT) - 9,), (0, 9, 5000, 5020), (999, 1000 + 9, 3001)])
def test_all_but_the_pieces_is_copied(source: Path, tmp_path: Path, at: tuple[int, ...]) -> None:
    expected = bytearray(CONTENT)
    for begin in at:
        expected[begin : begin + 9] = b"new bytes"
    write_changed(source, tmp_path / "target", pieces(*at), "copy")
    assert (tmp_path / "target").read_bytes() == expected
    assert source.read_bytes() == CONTENT


@pytest.mark.usefixtures("way")
def test_a_source_that_becomes_shorter_is_noticed(source: Path, tmp_path: Path) -> None:
    def shortening() -> Any:
        yield from pieces(10)
        os.truncate(source, 2000)
        yield from pieces(9000)

    with pytest.raises(OSError, match="became shorter"):
        write_changed(source, tmp_path / "target", shortening(), "copy")


def test_what_the_disk_refuses_is_not_lost_in_a_thread(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_changed(source, tmp_path / "target", pieces(5000), "copy")

"""What a killed writer has left is removed by the next, and what a living one writes is not."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from moe_patch.io import temporary
from moe_patch.io.files import replacing_file, write_text
from moe_patch.io.temporary import remove_abandoned, temporary_beside


def kill_while_writing(path: Path) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        with replacing_file(path) as half:
            half.write_text("half")
            os.write(writing, b"x")
            signal.pause()
    os.read(reading, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is neither fork nor SIGKILL")
def test_the_next_writer_in_the_folder_removes_it(tmp_path: Path) -> None:
    for name in ("a.txt", "ä" * 127, "a.txt"):
        kill_while_writing(tmp_path / name)
    assert list(tmp_path.glob(".*.tmp"))
    write_text(tmp_path / "other.txt", "")
    assert [path.name for path in tmp_path.iterdir()] == ["other.txt"]


def test_what_is_being_written_stays(tmp_path: Path) -> None:
    with replacing_file(tmp_path / "a") as half:
        half.touch()
        write_text(tmp_path / "b", "")
        assert half.exists()


def test_a_number_that_was_used_again_and_other_files(tmp_path: Path) -> None:
    own = temporary_beside(tmp_path / "a")
    machine, pid, started, token = own.name.removesuffix(".tmp").rpartition(".")[2].split("-")
    earlier = tmp_path / f".a.{machine}-{pid}-{int(started) - 100}-{token}.tmp"
    foreign = tmp_path / f".a.00000000-{pid}-{started}-{token}.tmp"
    kept = [own, foreign, tmp_path / ".a.tmp", tmp_path / "a.1-2-3.tmp", tmp_path / ".mine.0a0a0a0a.tmp"]
    for path in (earlier, *kept):
        path.touch()
    remove_abandoned(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    os.utime(foreign, (0, time.time() - temporary._OLD - 60))
    remove_abandoned(tmp_path)
    assert not foreign.exists()

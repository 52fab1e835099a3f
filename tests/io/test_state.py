"""The user's state folder."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from moe_patch.errors import ConfigError, OutputError
from moe_patch.io.state import check_private, create_private, private_folder, state_folder


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOE_PATCH_STATE", str(tmp_path / "own"))
    assert state_folder() == tmp_path / "own"
    monkeypatch.delenv("MOE_PATCH_STATE")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_folder() == tmp_path / "moe-patch"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_folder() == tmp_path / ".local" / "state" / "moe-patch"


def test_a_private_file_is_written_once_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "state" / "token"
    assert create_private(path, "one\n")
    assert not create_private(path, "two\n")
    assert path.read_text() == "one\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["token"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "token"
    create_private(path, "one\n")
    check_private(path)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="others can read it: run `chmod 600"):
        check_private(path)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot make the folder"):
        private_folder(tmp_path / "file" / "state")
    with pytest.raises(ConfigError, match="cannot be read"):
        check_private(tmp_path / "none")

"""The server's own copies of patches: whole, private, and removed after a kill."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

import pytest

from moe_patch.patch import load, save
from moe_patch_serving.store import PatchStore
from tests.patch.patches import delta_patch


def test_a_stored_patch_outlives_the_clients_file(tmp_path: Path) -> None:
    given, patch = tmp_path / "p.safetensors", delta_patch()
    save(patch, given)
    store = PatchStore(tmp_path / "served")
    path = store.put(load(given))
    given.write_bytes(b"")
    assert load(path).hash == patch.hash
    assert path == store.put(patch)
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    store.discard(patch.hash)
    assert not path.exists()
    store.close()
    assert not store.folder.exists()


def test_the_folder_of_a_living_server_stays(tmp_path: Path) -> None:
    first, second = PatchStore(tmp_path), PatchStore(tmp_path)
    assert first.folder.is_dir()
    assert first.folder != second.folder


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is neither fork nor SIGKILL")
def test_the_folder_of_a_killed_server_is_removed_by_the_next(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, str(PatchStore(tmp_path).folder).encode())
        signal.pause()
    folder = Path(os.read(reading, 1000).decode())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert folder.is_dir()
    PatchStore(tmp_path)
    assert not folder.exists()

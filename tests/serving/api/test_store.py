"""A server's own copies of patches: nobody else's file is read again, and nothing is left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from moe_patch.errors import ConfigError
from moe_patch.patch import load, save
from moe_patch_serving.api.store import PatchStore
from tests.patch.patches import delta_patch

SERVER = """
import sys, time
from pathlib import Path
from moe_patch_serving.api.store import PatchStore
store = PatchStore(Path(sys.argv[1]))
print("ready", flush=True)
time.sleep(600)
"""


def test_a_copy_stays_when_the_file_changes(tmp_path: Path) -> None:
    path, store = tmp_path / "p.safetensors", PatchStore(tmp_path)
    save(delta_patch(seed=0), path)
    patch = load(path)
    copy = store.put(patch)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    assert load(copy).hash == patch.hash
    path.unlink()
    assert load(store.put(patch)).hash == patch.hash
    assert copy.parent.stat().st_mode & 0o777 == 0o700
    store.close()
    assert not list(tmp_path.iterdir())


def test_it_holds_no_more_than_is_needed(tmp_path: Path) -> None:
    store, patches = PatchStore(tmp_path), [delta_patch(seed=seed) for seed in range(3)]
    copies = [store.put(patch) for patch in patches]
    store.keep({patches[1].hash})
    assert [copy.exists() for copy in copies] == [False, True, False]
    store.close()


def test_what_a_killed_server_left_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    living = PatchStore(tmp_path)
    living.put(delta_patch())
    with subprocess.Popen([sys.executable, "-c", SERVER, tmp_path], stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None
        killed.stdout.readline()
        assert len(list(tmp_path.iterdir())) == 2
        killed.send_signal(signal.SIGKILL)
    (tmp_path / "moe-patch-server-link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").touch()
    later = PatchStore(tmp_path)
    assert len([folder for folder in tmp_path.glob("moe-patch-server-*") if not folder.is_symlink()]) == 2
    assert (tmp_path / "elsewhere" / "file").exists()
    later.close()
    assert load(living.put(delta_patch())).hash == delta_patch().hash
    living.close()


def test_a_place_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no place for this server's copies of patches in "):
        PatchStore(tmp_path / "nowhere")

"""Commands killed at random points leave the old state or the new one, and never half of either.

Over 5 s each: every kill needs a process of its own, and that has to import torch first.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moe_patch.patch import load, save
from moe_patch.stack import read_lock
from tests.stack.patches import World

KILLS = 6
LOOP = """
from moe_patch.cli import main
main({command!r}, standalone_mode=False)
print("ready", flush=True)
while True:
    main({command!r}, standalone_mode=False)
"""

pytestmark = pytest.mark.slow


def kill_while_at_it(folder: Path, chance: random.Random, *command: str) -> None:
    """Repeat a command in a separate process, and kill the process at a random moment."""
    code = LOOP.format(command=list(command))
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, stdout=subprocess.PIPE, env={**os.environ, "TERM": "dumb"}
    ) as process:
        assert process.stdout is not None
        while b"ready" not in (line := process.stdout.readline()):
            assert line
        end = time.monotonic() + chance.uniform(0.0, 0.1)
        os.set_blocking(process.stdout.fileno(), False)
        while time.monotonic() < end:
            process.stdout.read()  # so that it never waits for us
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no kill -9")
def test_a_killed_stack_is_one_whole_revision_with_one_to_go_back_to(tmp_path: Path) -> None:
    world, chance = World(6), random.Random(0)
    lock, paths = tmp_path / "moe-patch.stack", [f"{n}.safetensors" for n in range(3)]
    for number, path in enumerate(paths):
        save(world.build([2 * number, 2 * number + 1]), tmp_path / path)
    from moe_patch.cli import main

    files = [str(tmp_path / path) for path in paths]
    main(["stack", "init", *files, "--stack", str(lock)], standalone_mode=False)
    seen = {0}
    for _ in range(KILLS // 2):
        kill_while_at_it(tmp_path, chance, "stack", "move", "1", "3")
        found = read_lock(lock)
        before = read_lock(tmp_path / "moe-patch.stack.history" / f"{found.revision - 1}.toml")
        assert before.revision == found.revision - 1 >= max(seen)
        order = [paths[(place + found.revision) % 3] for place in range(3)]
        assert [entry.path for entry in found.patch] == order
        seen.add(found.revision)
    main(["stack", "move", "1", "3", "--stack", str(lock)], standalone_mode=False)
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no kill -9")
def test_a_killed_drop_leaves_a_whole_patch_or_none(tmp_path: Path) -> None:
    save(World(6).build(range(6)), tmp_path / "all.safetensors")
    chance, out = random.Random(1), tmp_path / "out.safetensors"
    for _ in range(KILLS // 2):
        kill_while_at_it(
            tmp_path, chance, "drop", "all.safetensors", "--fact=fact-1", "-o", out.name, "--force"
        )
        assert len(load(out).facts) == 5

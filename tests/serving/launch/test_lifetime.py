"""Children end with a parent that is killed, by whichever method and at whatever depth they were started."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

PARENT = """
import multiprocessing, sys, time
from moe_patch_serving.launch.lifetime import follow_parents

def grandchild():
    follow_parents()
    time.sleep(600)

def child(method):
    follow_parents()
    multiprocessing.get_context(method).Process(target=grandchild).start()
    time.sleep(600)

if __name__ == "__main__":
    follow_parents()
    multiprocessing.get_context(sys.argv[1]).Process(target=child, args=(sys.argv[1],)).start()
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_nobody_outlives_a_parent_that_is_killed(method: str, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT, encoding="utf-8")
    with subprocess.Popen([sys.executable, script, method], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        followers = _descendants(parent.pid, 2)
        time.sleep(1)  # in which nobody ends whose parent lives
        assert all(process.is_running() for process in followers)
        parent.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(followers, timeout=8)
    assert not alive


def _descendants(pid: int, count: int) -> list[psutil.Process]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = [
            process
            for process in psutil.Process(pid).children(recursive=True)
            if "resource_tracker" not in " ".join(process.cmdline())
        ]
        if len(found) == count:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{count} descendants were expected")

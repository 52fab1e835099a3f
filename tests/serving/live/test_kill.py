"""A server that is killed leaves nothing behind: no engine, no worker, no shared memory."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest

from tests.serving.live.conftest import Patches
from tests.serving.live.server import serving
from tests.share.hub_server import Hub

SHARED = Path("/dev/shm")
SECONDS = 30.0  # in which all has to be gone


@pytest.mark.slow
def test_nothing_outlives_a_server_that_is_killed(patches: Patches, hub: Hub, tmp_path: Path) -> None:
    before = set(SHARED.iterdir())
    with serving("--allow", str(patches.folder), folder=tmp_path, hub=hub.url) as server:
        assert server.add(patches.one).status_code == 201
        family = psutil.Process(server.process.pid).children(recursive=True)
        assert family
        server.process.send_signal(signal.SIGKILL)
        _, alive = psutil.wait_procs(family, timeout=SECONDS)
        assert not alive
    assert not set(SHARED.iterdir()) - before

"""The processes of a server end with the one that started them, however that ends.

vLLM's engine and its workers are told to stop by their parents. A parent that is killed tells nobody, and
they would keep their memory for ever.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from functools import cache
from multiprocessing.process import BaseProcess

logger = logging.getLogger("vllm.moe_patch")

GRACE_SECONDS = 10.0
"""How long a process that lost its parent may take to end by itself."""

_BEGINNING_SECONDS = 5.0  # in which a forked process learns from multiprocessing whose child it is


@cache
def follow_parents() -> None:
    """Let this process, and all that `multiprocessing` forks from it, end soon after their own parents.

    A process that was not started by `multiprocessing`, as the server itself, follows nobody.
    """
    _watch()
    os.register_at_fork(after_in_child=_watch)


def _watch() -> None:
    threading.Thread(target=_follow, name="moe-patch-parent", daemon=True).start()


def _follow() -> None:
    parent = _own_parent()
    if parent is None:
        return
    parent.join()
    logger.warning("process %d lost its parent, and ends", os.getpid())
    os.kill(os.getpid(), signal.SIGTERM)  # first, for shared memory is given back on the way out
    time.sleep(GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def _own_parent() -> BaseProcess | None:
    """The process that started this one; right after a fork, multiprocessing still names its parent's."""
    deadline = time.monotonic() + _BEGINNING_SECONDS
    while time.monotonic() < deadline:
        parent = multiprocessing.parent_process()
        if parent is not None and parent.pid == os.getppid():
            return parent
        time.sleep(0.05)
    return None

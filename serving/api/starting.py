"""Says, while a server starts, that it does and why it takes so long."""

from __future__ import annotations

import logging
import multiprocessing
import sys
import threading
import time

import psutil

logger = logging.getLogger("vllm.moe_patch")

EVERY_SECONDS = 15.0

_up = threading.Event()


def follow_start() -> None:
    """In the process of a server, log every `EVERY_SECONDS` that it starts, until `started`."""
    if multiprocessing.parent_process() is None and sys.argv[1:2] == ["serve"]:
        threading.Thread(target=_tell, name="moe-patch-start", daemon=True).start()


def started() -> float:
    """End what `follow_start` began. Returns the seconds since this process began."""
    _up.set()
    return _age()


def _tell() -> None:
    while not _up.wait(EVERY_SECONDS):
        logger.info(
            "still starting, %.0f s so far: the engine loads weights, compiles and sizes its cache; no "
            "request is answered yet",
            _age(),
        )


def _age() -> float:
    return time.time() - float(psutil.Process().create_time())

"""Says, while a server starts, that it does and why it takes so long."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import threading
import time

import psutil

logger = logging.getLogger("vllm.moe_patch")

STARTED = "MOE_PATCH_STARTED"
"""The environment variable with which `moe-patch serve` says when it was called, in seconds since 1970."""

EVERY_SECONDS = 15.0

_up = threading.Event()


def follow_start() -> None:
    """In a server that `moe-patch serve` starts, log every `EVERY_SECONDS` that it does, until `started`."""
    alone = multiprocessing.parent_process() is None and sys.argv[1:2] == ["serve"]  # and no worker of it
    if STARTED in os.environ and alone:
        threading.Thread(target=_tell, name="moe-patch-start", daemon=True).start()


def started() -> float:
    """End what `follow_start` began. Returns the seconds that the start took."""
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
    """The seconds since the command was called, or else since this process began."""
    began = os.environ.get(STARTED)
    return time.time() - float(began or psutil.Process().create_time())

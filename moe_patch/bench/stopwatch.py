"""The time of a build by its stages."""

from __future__ import annotations

import time
from collections import defaultdict

REST = "rest"
"""The stage of what comes after the last report of progress."""


class Stopwatch:
    """A progress function that gives the time since the last report to the stage that reports."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._last = time.perf_counter()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """The methods' progress."""
        now = time.perf_counter()
        self.seconds[stage] += now - self._last
        self._last = now

    def skip(self) -> None:
        """Count the time since the last report for no stage."""
        self._last = time.perf_counter()

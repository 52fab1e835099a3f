"""Time that may be spent."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Gives seconds since some fixed moment."""


class OutOfTime(Exception):  # noqa: N818  no error: it ends a search, which has a result all the same
    """The time that may be spent is used up. It never leaves this package."""


class Budget:
    """So many seconds, from the moment it is made."""

    def __init__(self, seconds: float, clock: Clock = time.monotonic) -> None:
        self.seconds = seconds
        self._clock, self._start = clock, clock()

    @property
    def spent(self) -> float:
        """Seconds that have passed."""
        return self._clock() - self._start

    @property
    def left(self) -> float:
        """Seconds that remain; negative if more than all are spent."""
        return self.seconds - self.spent

    def check(self, reserve: float = 0.0) -> None:
        """Go on only if more than `reserve` seconds remain.

        Raises:
            OutOfTime: no more remain.
        """
        if self.left <= reserve:
            raise OutOfTime

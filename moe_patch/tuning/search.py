"""The search for good options: one dimension after the other, within a budget of time.

In an ordered dimension the search steps to a neighbour as long as that is clearly better. In another one all
candidates edit a part of the facts, and the better half edits all of them (successive halving; Karnin et al.,
ICML 2013). Rounds over all dimensions follow until one brings nothing. What is not clearly better, by the
noise over facts, counts as a tie, and ties are won by what was there first, so in the end by the defaults.

The search knows nothing of models: it gets a function that scores a point.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import JsonValue

from moe_patch.errors import MoePatchError, TuningError
from moe_patch.tuning.budget import Budget, OutOfTime
from moe_patch.tuning.score import Score, gain
from moe_patch.tuning.space import Point, Settings, Space

logger = logging.getLogger(__name__)

_HALVED = 4  # with fewer candidates, all of them edit all facts at once

Evaluate = Callable[[Settings, int], Score]
"""Called as evaluate(settings, facts) with the number of facts to edit, from the first one on.

It may raise `OutOfTime`, which ends the search, and any `MoePatchError`, which fails the trial.
"""


@dataclass(frozen=True, slots=True)
class Trial:
    """One edit with the options of one point."""

    point: Point
    facts: int
    score: Score | None  # None if it failed
    seconds: float
    failure: str = ""

    def to_json(self, space: Space) -> dict[str, JsonValue]:
        """The trial as plain data, with what differs from the defaults."""
        return {
            "changes": space.changes(self.point),
            "facts": self.facts,
            "seconds": self.seconds,
            "score": None if self.score is None else self.score.to_json(),
            "failure": self.failure,
        }


class Search:
    """A search and its trials so far.

    Args:
        space: what is varied.
        evaluate: scores a point.
        facts: how many facts a trial edits.
        budget: the time.
        checks: trials of this size for which time must remain when the search ends.
        told: called after each trial.
    """

    def __init__(
        self,
        space: Space,
        evaluate: Evaluate,
        facts: int,
        budget: Budget,
        *,
        checks: int = 0,
        told: Callable[[Trial], None] | None = None,
    ) -> None:
        self.space, self.trials, self.finished = space, list[Trial](), False
        self._evaluate, self._facts, self._budget = evaluate, facts, budget
        self._checks, self._told = checks, told

    @property
    def reserve(self) -> float:
        """Seconds that must be left for checks: as if each took as long as the longer trials so far.

        The very longest may have met other work on the machine, so a quarter of all may have taken longer.
        """
        seconds = sorted(trial.seconds for trial in self.trials)
        return self._checks * seconds[3 * len(seconds) // 4] if seconds else 0.0

    def run(self) -> Trial:
        """The best trial that edits all facts; the first one, at the space's start, if the time ends early.

        Raises:
            OutOfTime: the budget is spent before the first trial is finished.
            TuningError: the first trial fails.
        """
        best = self._try(self.space.start)
        if best.score is None:
            raise TuningError(f"the edit with the method's defaults fails: {best.failure}")
        self.best = best
        try:
            while self._round():
                pass
            self.finished = True
        except OutOfTime:
            logger.info("the time is spent after %d trials", len(self.trials))
        return self.best

    def _round(self) -> bool:
        """Search every dimension once; whether anything was better."""
        before = self.best
        for number, dimension in enumerate(self.space.dimensions):
            if dimension.ordered:
                for step in (1, -1):
                    if self._climb(number, step):
                        break  # the other side has been left behind
            else:
                self._halve(number)
        return self.best is not before

    def _climb(self, number: int, step: int) -> bool:
        """Step to the next candidate as long as that is better; whether it was."""
        moved, candidates = False, len(self.space.dimensions[number].candidates)
        while 0 <= (following := self.best.point[number] + step) < candidates:
            if not self._improve(self.space.moved(self.best.point, number, following)):
                break
            moved = True
        return moved

    def _halve(self, number: int) -> None:
        """Try all candidates with a part of the facts, and the better half of them with all."""
        candidates = len(self.space.dimensions[number].candidates)
        points = [self.space.moved(self.best.point, number, each) for each in range(candidates)]
        if candidates >= _HALVED and self._facts > 1:
            part = [self._try(point, -(-self._facts // 2)) for point in points]
            ranked = sorted(part, key=lambda trial: -trial.score.value if trial.score else math.inf)
            points = [trial.point for trial in ranked[: -(-candidates // 2)]]
        for point in points:
            self._improve(point)

    def _improve(self, point: Point) -> bool:
        """Try a point with all facts, and go there if it is clearly better."""
        trial = self._try(point)
        assert self.best.score is not None
        if trial.score is None or not gain(trial.score, self.best.score).is_clear:
            return False
        self.best = trial
        return True

    def _try(self, point: Point, facts: int | None = None) -> Trial:
        """The trial of a point, which is not run twice."""
        count = facts or self._facts
        for trial in self.trials:
            if (trial.point, trial.facts) == (point, count):
                return trial
        self._budget.check(self.reserve)
        started = self._budget.spent
        try:
            score, failure = self._evaluate(self.space.settings(point), count), ""
        except MoePatchError as error:  # such as: all experts that the facts reach are protected
            score, failure = None, str(error)
        trial = Trial(point, count, score, self._budget.spent - started, failure)
        self.trials.append(trial)
        if self._told is not None:
            self._told(trial)
        return trial

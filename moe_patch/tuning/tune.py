"""Tuning a method to a model, by what the model knows itself.

One part of the facts is searched on. The settings that win there are then compared with the method's defaults
on the other parts, and taken only if they are clearly better there too. So the score that is reported is on
facts that were not searched on, and tuning is not worse than the defaults but for what noise can hide.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from moe_patch.base.model import Base
from moe_patch.errors import TuningError
from moe_patch.methods.base import Method
from moe_patch.methods.delta import DeltaMethod
from moe_patch.methods.overrides import merged_options
from moe_patch.progress import Progress
from moe_patch.tuning.bench import Bench
from moe_patch.tuning.budget import Budget, Clock, OutOfTime
from moe_patch.tuning.calibration import FACTS, Calibration, Probe, calibrate
from moe_patch.tuning.choice import NO_RECIPE, Choice, choose
from moe_patch.tuning.layers import layer_candidates
from moe_patch.tuning.recipe import tuned_recipe
from moe_patch.tuning.score import Score, joined
from moe_patch.tuning.search import Search
from moe_patch.tuning.space import Settings, search_space
from moe_patch.tuning.tuned import Check, Tuned

logger = logging.getLogger(__name__)

MINUTES = 20.0
"""The budget of a tuning, unless another is asked for."""


def tune(
    base: Base,
    method: Method[Any],
    *,
    minutes: float = MINUTES,
    facts: int = FACTS,
    seed: int = 0,
    given: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    clock: Clock = time.monotonic,
) -> Tuned:
    """Search for options with which a method edits this base well.

    With the same seed and enough time, the result is the same.

    Args:
        base: the model, without patches.
        method: one that changes down projections.
        minutes: the time after which the search ends with the best that it has.
        facts: that a trial edits together; three times as many are asked for.
        seed: of all that the base writes.
        given: options by dotted names that are not searched.
        progress: called with stages.
        clock: measures the time.

    Raises:
        TuningError: the method cannot be tuned, the base knows too few facts, the time is spent before the
            defaults were tried, or an edit with the defaults fails.
        ConfigError: an option is unknown or not valid.
        StatisticsError: the preserved text cannot be used.
    """
    if not isinstance(method, DeltaMethod):
        raise TuningError(f"{method.pretty_name} cannot be tuned: its options are those of a training")
    budget, given = Budget(60 * minutes, clock), dict(given or {})
    watch = _Watch(budget, progress)
    try:
        chat = merged_options(method.Options, {}, given, "").targets.chat
        calibration = calibrate(base, facts, seed=seed, chat=chat, progress=watch)
        known = [probe.fact for probe in calibration.search]
        start = choose(base, known, method, given=given, recipe=NO_RECIPE, progress=watch)
        bench, search = _prepare(base, method, start, given, calibration, watch)
        bench.prepare(search.space.settings(search.space.start), watch)
        best = search.run()
    except OutOfTime:
        raise TuningError(
            f"{minutes:g} minutes are not enough to try the defaults once: give more with --minutes"
        ) from None
    watch.reserve = float
    check = _check(bench, search, calibration.checks, watch)
    point = best.point if check is not None and check.gain.is_clear else search.space.start
    return Tuned(
        recipe=tuned_recipe(base, method.name, search.space.settings(point) | given),
        space=search.space,
        start=start,
        given=given,
        trials=tuple(search.trials),
        best=best,
        check=check,
        finished=search.finished,
        seconds=budget.spent,
    )


class _Watch:
    """A progress callback that ends what it watches when the time is spent but for a reserve."""

    def __init__(self, budget: Budget, progress: Progress | None) -> None:
        self.budget = budget
        self.reserve: Callable[[], float] = float  # gives 0
        self._progress = progress

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.budget.check(self.reserve())
        if self._progress is not None:
            self._progress(stage, done, total)
            seconds = int(self.budget.seconds)
            self._progress("seconds of the budget", min(int(self.budget.spent), seconds), seconds)


def _prepare(
    base: Base,
    method: DeltaMethod[Any],
    start: Choice,
    given: Mapping[str, Any],
    calibration: Calibration,
    watch: _Watch,
) -> tuple[Bench, Search]:
    """The search over the space around the defaults, and the bench on which it tries settings."""
    own = start.options.layers  # type: ignore[attr-defined]  # every delta method has them
    layers = [] if "layers" in given else layer_candidates(base, own, start.ranking)
    tried = {layer for some in (own, *layers) for layer in some}
    bench = Bench(base, method, given, calibration.texts, tried)

    def evaluate(settings: Settings, count: int) -> Score:
        return bench.score(settings, calibration.search[:count], watch)

    space = search_space(start.options, layers, tuple(given))
    checks = 2 * len(calibration.checks)
    search = Search(space, evaluate, len(calibration.search), watch.budget, checks=checks)
    watch.reserve = lambda: search.reserve
    return bench, search


def _check(
    bench: Bench, search: Search, groups: Sequence[Sequence[Probe]], progress: Progress
) -> Check | None:
    """The defaults and the best settings on the groups for which time is left; None if it is for none."""
    start, best = (search.space.settings(point) for point in (search.space.start, search.best.point))
    defaults, others = list[Score](), list[Score]()
    try:
        for group in groups:
            default = bench.score(start, group, progress)
            other = default if best == start else bench.score(best, group, progress)
            defaults.append(default)
            others.append(other)
    except OutOfTime:
        logger.info("the time is spent after %d of %d groups of the check", len(others), len(groups))
    return Check(joined(defaults), joined(others)) if others else None

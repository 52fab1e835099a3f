"""The search, on made-up scores: it finds what is there, stops in time, and lets the defaults win ties."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_patch.errors import TargetError, TuningError
from moe_patch.tuning.budget import Budget, OutOfTime
from moe_patch.tuning.score import FactScore, Score, gain, joined
from moe_patch.tuning.search import Evaluate, Search, Trial
from moe_patch.tuning.space import Dimension, Settings, Space

FACTS = 8


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def space() -> Space:
    return Space(
        (
            Dimension("place", tuple({"place": n} for n in range(5)), 0, ordered=False),
            Dimension("size", tuple({"size": n} for n in range(7)), 3),
            Dimension("force", tuple({"force": n} for n in range(7)), 3),
        )
    )


def score(share: float, count: int, kl: float = 0.0, spread: float = 0.0) -> Score:
    """A score whose facts are worth a share each, some more and some less by `spread`."""
    sides = [1 if number % 2 else -1 for number in range(count)]
    return Score(tuple(FactScore(share + spread * side) for side in sides), kl)


def peak(place: int, size: int, force: int) -> Callable[[Settings, int], Score]:
    """Scores that fall with the distance from a point."""

    def evaluate(settings: Settings, facts: int) -> Score:
        away = abs(settings["size"] - size) + abs(settings["force"] - force)
        return score(1 - 0.05 * away - (0.0 if settings["place"] == place else 0.2), facts)

    return evaluate


def search(evaluate: Evaluate, clock: Clock | None = None, seconds: float = 1e9, **more: Any) -> Search:
    return Search(space(), evaluate, FACTS, Budget(seconds, clock or Clock()), **more)


@given(st.integers(0, 4), st.integers(0, 6), st.integers(0, 6))
def test_the_best_point_is_found(place: int, size: int, force: int) -> None:
    found = search(peak(place, size, force))
    best = found.run()
    assert best.point == (place, size, force)
    assert found.finished
    assert len({(trial.point, trial.facts) for trial in found.trials}) == len(found.trials)


def test_a_search_is_the_same_every_time() -> None:
    first, second = search(peak(4, 6, 0)), search(peak(4, 6, 0))
    assert first.run().point == second.run().point
    assert [trial.point for trial in first.trials] == [trial.point for trial in second.trials]


def test_ties_are_won_by_the_defaults() -> None:
    assert search(lambda settings, facts: score(0.5, facts)).run().point == space().start


def test_what_is_within_the_noise_is_a_tie() -> None:
    def noisy(settings: Settings, facts: int) -> Score:
        change = settings["size"] != 3
        return score(0.52 if change else 0.5, facts, spread=0.3 if change else 0.0)

    assert search(noisy).run().point == space().start


def test_unordered_candidates_are_halved() -> None:
    found = search(peak(4, 3, 3))
    found.run()
    part = [trial.point[0] for trial in found.trials if trial.facts == FACTS // 2]
    whole = [trial.point[0] for trial in found.trials if trial.facts == FACTS and trial.point[1:] == (3, 3)]
    assert sorted(part) == [0, 1, 2, 3, 4]
    assert len(whole) == 3
    assert 4 in whole


def test_a_search_stops_when_its_time_is_spent_with_the_best_so_far() -> None:
    clock = Clock()

    def slow(settings: Settings, facts: int) -> Score:
        clock.now += 10.0 * facts / FACTS
        return peak(4, 6, 3)(settings, facts)

    found = search(slow, clock, 75.0, checks=2)
    best = found.run()
    # 10 s for the start, 5 x 5 s for parts, 2 x 10 s for wholes, which leaves the 20 s that checks need
    assert clock.now == 155.0
    assert best.point == (4, 3, 3)
    assert not found.finished


def test_a_trial_that_runs_out_of_time_is_left() -> None:
    calls = []

    def endless(settings: Settings, facts: int) -> Score:
        calls.append(settings)
        if len(calls) > 2:
            raise OutOfTime
        return score(0.5, facts)

    found = search(endless)
    assert found.run().point == space().start
    assert len(found.trials) == 2


def test_no_time_at_all() -> None:
    with pytest.raises(OutOfTime):
        search(peak(0, 3, 3), seconds=0.0).run()


def test_a_failed_trial_is_recorded_and_never_the_best() -> None:
    def fragile(settings: Settings, facts: int) -> Score:
        if settings["place"] == 4:
            raise TargetError("nothing can be edited there")
        return peak(4, 3, 3)(settings, facts)

    told: list[Trial] = []
    found = search(fragile, told=told.append)
    assert found.run().point[0] != 4
    assert told == found.trials
    failed = [trial for trial in found.trials if trial.score is None]
    assert [trial.point for trial in failed] == [(4, 3, 3)]
    assert failed[0].to_json(space())["failure"] == "nothing can be edited there"
    assert failed[0].to_json(space())["changes"] == {"place": 4}


def test_defaults_that_fail_end_the_search() -> None:
    def broken(settings: Settings, facts: int) -> Score:
        raise TargetError("no such token")

    with pytest.raises(TuningError, match="the edit with the method's defaults fails: no such token"):
        search(broken).run()


def test_language_that_gets_worse_lowers_what_an_edit_is_worth() -> None:
    assert score(0.9, 4).value == pytest.approx(90)
    assert score(0.9, 4, kl=math.log(1.1)).value == pytest.approx(90 / 1.1)


def test_a_fact_without_prompts_of_a_kind_counts_by_the_others() -> None:
    both = Score((FactScore(1.0, 0.5, 0.0), FactScore(1.0)), 0.0)
    assert both.values == (50.0, 100.0)
    assert (both.efficacy, both.generalization, both.specificity) == (100.0, 50.0, 0.0)
    alone = Score((FactScore(1.0),), 0.0)
    assert (alone.generalization, alone.specificity) == (None, None)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=20))
def test_a_gain_is_the_mean_of_paired_differences(shares: list[tuple[float, float]]) -> None:
    mine = Score(tuple(FactScore(a) for a, _ in shares), 0.0)
    theirs = Score(tuple(FactScore(b) for _, b in shares), 0.0)
    found, back = gain(mine, theirs), gain(theirs, mine)
    assert found.mean == pytest.approx(mine.value - theirs.value, abs=1e-9)
    assert found.noise == pytest.approx(back.noise)
    assert not (found.is_clear and back.is_clear)


def test_edits_with_facts_of_their_own_are_one_score() -> None:
    whole = joined([score(1.0, 3, kl=0.1), score(0.5, 1, kl=0.5)])
    assert len(whole.facts) == 4
    assert whole.kl == pytest.approx(0.2)
    assert whole.efficacy == pytest.approx(87.5)

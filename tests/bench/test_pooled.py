"""Pooled evaluations, against scores of all outcomes together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from moe_patch.bench.pooled import pool
from moe_patch.evaluation.metrics import Score, Scores

outcomes = st.lists(st.lists(st.sampled_from([0.0, 1.0]), max_size=4), min_size=1, max_size=5)


def as_json(score: Score) -> dict[str, object]:
    return {"value": score.value, "interval": score.interval and list(score.interval), "n": score.n}


def close(found: dict, expected: dict) -> bool:
    if expected["value"] is None:
        return found == expected
    pairs = zip([found["value"], *found["interval"]], [expected["value"], *expected["interval"]], strict=True)
    return found["n"] == expected["n"] and all(abs(a - b) < 1e-9 for a, b in pairs)


@given(outcomes)
def test_pooled_scores_are_those_of_all_prompts(parts: list[list[float]]) -> None:
    pooled = pool([{"efficacy": as_json(Score.of(part))} for part in parts])
    assert close(pooled["efficacy"], as_json(Score.of([each for part in parts for each in part])))


@given(outcomes)
def test_utility_is_the_mean_of_the_pooled_scores(parts: list[list[float]]) -> None:
    names = ("efficacy", "generalization", "specificity", "utility")

    def report(*outcomes: list[float]) -> dict[str, object]:
        scores = Scores(*map(Score.of, outcomes))
        return {name: as_json(getattr(scores, name)) for name in names}

    pooled = pool([report(part, part[:1], part[1:]) for part in parts])
    whole = [
        [each for part in parts for each in part],
        [each for part in parts for each in part[:1]],
        [each for part in parts for each in part[1:]],
    ]
    assert close(pooled["utility"], report(*whole)["utility"])


def test_numbers_and_lists_are_averaged_counts_are_summed_and_names_stay() -> None:
    first = {
        "rule": "zsre",
        "facts": 1,
        "layers": [{"layer": 3, "similarity": 50.0, "tokens": 4}],
        "no": None,
    }
    second = {
        "rule": "zsre",
        "facts": 1,
        "layers": [{"layer": 3, "similarity": 100.0, "tokens": 8}],
        "no": 2.0,
    }
    assert pool([first, second]) == {
        "rule": "zsre",
        "facts": 2,
        "layers": [{"layer": 3, "similarity": 75.0, "tokens": 12}],
        "no": 2.0,
    }

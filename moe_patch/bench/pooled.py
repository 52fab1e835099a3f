"""Evaluations of single edits, pooled to one: every prompt of every edit counts the same."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from moe_patch.evaluation.metrics import Score, mean_score, wilson_interval

_PARTS = ("efficacy", "generalization", "specificity")


def is_score(value: object) -> bool:
    """Whether this is a score as data: a value with its interval and the number of its prompts."""
    return isinstance(value, Mapping) and {"value", "interval", "n"} <= value.keys()


def pool(reports: Sequence[Any]) -> Any:
    """Evaluations of the same form as one: scores over all their prompts, numbers and lists by their means.

    Counts of facts and of tokens are summed, and judgements are listed. What differs otherwise, such as a
    name, is that of the first.
    Utility is the mean of the pooled scores, with the interval that follows from theirs.
    """
    first = next((report for report in reports if report is not None), None)
    there = [report for report in reports if report is not None]
    if is_score(first):
        return _pool_scores(there)
    if isinstance(first, Mapping):
        pooled = {name: _pool_named(name, [each.get(name) for each in there]) for name in first}
        if "utility" in pooled and all(is_score(pooled.get(part)) for part in _PARTS):
            pooled["utility"] = mean_score([_as_score(pooled[part]) for part in _PARTS]).to_json()
        return pooled
    if isinstance(first, list) and all(isinstance(each, list) and len(each) == len(first) for each in there):
        return [pool(each) for each in zip(*there, strict=True)]
    if isinstance(first, float):
        return math.fsum(there) / len(there)
    return first


def _pool_named(name: str, values: Sequence[Any]) -> Any:
    if name in ("facts", "tokens") and all(isinstance(value, int) for value in values):
        return sum(values)
    if name == "judgements":
        return [judgement for each in values for judgement in each]
    return pool(values)


def _pool_scores(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counted = [score for score in scores if score["value"] is not None and score["n"]]
    n = sum(score["n"] for score in counted)
    if not n:
        return {"value": None, "interval": None, "n": 0}
    value = math.fsum(score["value"] * score["n"] for score in counted) / n
    low, high = wilson_interval(min(max(value / 100, 0.0), 1.0), n)
    return {"value": value, "interval": [100 * low, 100 * high], "n": n}


def _as_score(score: Mapping[str, Any]) -> Score:
    interval = score["interval"]
    return Score(score["value"], None if interval is None else (interval[0], interval[1]), score["n"])

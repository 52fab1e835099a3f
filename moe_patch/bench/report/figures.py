"""All figures of a run by dotted names: `efficacy`, `exact.efficacy`, `base.efficacy`, `seconds.build`, ...

They are found by their form and not by a list, so that a score that an evaluation learns to measure is in
every report.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moe_patch.bench.pooled import is_score
from moe_patch.bench.record import RunRecord

SCORES = ("efficacy", "generalization", "specificity", "utility")


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of one run, or of the runs of several seeds."""

    value: float  # the mean, of several seeds
    low: float | None = None  # of the 95% interval; over seeds, the mean of theirs
    high: float | None = None
    prompts: int | None = None  # in one run
    deviation: float | None = None  # over seeds, with one degree of freedom less; None for one run
    seeds: int = 1

    def overlaps(self, other: Figure) -> bool | None:
        """Whether the intervals have a value in common; None if one has no interval."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return None
        return self.low <= other.high and other.low <= self.high

    def to_json(self) -> dict[str, float | int | None]:
        """The fields as plain data."""
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "prompts": self.prompts,
            "deviation": self.deviation,
            "seeds": self.seeds,
        }


def figures_of(record: RunRecord) -> dict[str, Figure]:
    """The figures of one run; those without a value are left out."""
    found = evaluation_figures(record.evaluation or {})
    found |= dict(_walk(record.perplexity or {}, "text."))
    found |= {f"seconds.{stage}": Figure(value) for stage, value in record.seconds.items()}
    for name, value in (record.memory or {}).items():
        if value is not None:
            found[f"memory.{name}"] = Figure(value)
    if record.memory is not None:
        for place in ("host", "device"):
            before, peak = record.memory.get(f"{place}_before"), record.memory.get(f"{place}_peak")
            if before is not None and peak is not None:
                found[f"memory.{place}_added"] = Figure(peak - before)
    for name, value in record.size.model_dump().items() if record.size else ():
        if value is not None:
            found[f"size.{name}"] = Figure(value)
    return found


def evaluation_figures(report: Mapping[str, Any]) -> dict[str, Figure]:
    """The figures of one evaluation, from `EvaluationReport.to_json`; those without a value are left out."""
    return dict(_walk(report, ""))


def _walk(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Figure]]:
    for name, inner in value.items():
        if is_score(inner):
            if _is_number(inner["value"]):
                low, high = _interval(inner["interval"])
                yield prefix + name, Figure(float(inner["value"]), low, high, int(inner["n"]))
        elif isinstance(inner, Mapping):
            yield from _walk(inner, f"{prefix}{name}.")
        elif _is_number(inner):
            yield prefix + name, Figure(float(inner))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _interval(value: Any) -> tuple[float | None, float | None]:
    if not isinstance(value, Sequence) or len(value) != 2 or not all(map(_is_number, value)):
        return None, None
    return float(value[0]), float(value[1])


def over_seeds(figures: Sequence[Mapping[str, Figure]]) -> dict[str, Figure]:
    """The figures of the same experiment with several seeds as one: what all of them have."""
    if len(figures) == 1:
        return dict(figures[0])
    common = [name for name in figures[0] if all(name in each for each in figures)]
    return {name: _mean([each[name] for each in figures]) for name in common}


def _mean(figures: Sequence[Figure]) -> Figure:
    values = [figure.value for figure in figures]
    lows = [figure.low for figure in figures if figure.low is not None]
    highs = [figure.high for figure in figures if figure.high is not None]
    whole = len(lows) == len(highs) == len(figures)
    return Figure(
        statistics.fmean(values),
        statistics.fmean(lows) if whole else None,
        statistics.fmean(highs) if whole else None,
        figures[0].prompts,
        statistics.stdev(values),
        len(values),
    )

"""An evaluation as data: a JSON object for programs, tables for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from moe_patch.evaluation.drift import Drift
from moe_patch.evaluation.free.scores import FreeScores
from moe_patch.evaluation.free.tables import free_table
from moe_patch.evaluation.metrics import GeneratedScores, Measurement, Score, Scores
from moe_patch.evaluation.routing import RoutingShift
from moe_patch.evaluation.routing_report import routing_table, shift_json
from moe_patch.evaluation.rules import Scoring
from moe_patch.evaluation.samples import Sample, samples_by_fact, samples_table
from moe_patch.evaluation.tasks import TaskReport
from moe_patch.io.html_tables import Tabled
from moe_patch.io.wording import counted

_NAMES = ("efficacy", "generalization", "specificity", "utility")
_OTHERS = {
    "answers": "specificity by answers",
    "agreement": "specificity by agreement",
    "portability": "portability",
}  # of a measurement, with their titles


@dataclass(frozen=True, slots=True)
class EvaluationReport(Tabled):
    """What one patch does to one base: scores with and without the patch, and the change of routing."""

    scoring: Scoring
    facts: int  # how many
    patched: Measurement
    base: Measurement
    locality: Score  # neighborhood prompts on which the base's answer is unchanged
    kept: Score  # the same for the facts' `keep` prompts
    edited_routing: RoutingShift | None
    preserved_routing: RoutingShift | None  # None if the facts have no neighborhood prompts
    untouched_routing: RoutingShift | None = None  # on facts of the same data set that are not edited
    stop: bool = False  # whether the patch trained the end of its answers
    patched_free: FreeScores | None = None  # what the model writes by itself
    base_free: FreeScores | None = None
    text: Drift | None = None  # on held-out text
    tasks: TaskReport | None = None  # of lm-evaluation-harness
    samples: tuple[Sample, ...] = ()  # every prompt by itself; empty if that was not asked for
    hash: str = ""  # of the patch's content

    def to_json(self) -> dict[str, Any]:
        """Plain data: percentages from 0 to 100, divergences in nats, None for what could not be measured."""
        return {
            "hash": self.hash,
            **asdict(self.scoring),
            "facts": self.facts,
            **_measurement(self.patched),
            "locality": self.locality.to_json(),
            "kept": self.kept.to_json(),
            "base": _measurement(self.base),
            "routing": {
                "edited": shift_json(self.edited_routing),
                "preserved": shift_json(self.preserved_routing),
                "untouched": shift_json(self.untouched_routing),
            },
            "stop": self.stop,
            "free": self._free_json(),
            "text": None if self.text is None else self.text.to_json(),
            "tasks": None if self.tasks is None else self.tasks.to_json(),
            "per_fact": samples_by_fact(self.samples) or None,
        }

    def _free_json(self) -> dict[str, Any] | None:
        if self.patched_free is None or self.base_free is None:
            return None
        return {"patched": self.patched_free.to_json(), "base": self.base_free.to_json()}

    def replies(self) -> Iterator[dict[str, Any]]:
        """Everything that the two models wrote freely, as plain data, one reply each."""
        for model, free in (("base", self.base_free), ("patched", self.patched_free)):
            if free is not None:
                yield from ({"model": model, **each.to_json()} for each in free.answered)

    def __repr__(self) -> str:
        facts = counted(self.facts, "fact")
        return f"EvaluationReport({facts}, patched: {self.patched.scores}, base: {self.base.scores})"

    def tables(self) -> list[Table]:
        """Facts one by one, the papers' scores, free writing, the change of routing, and general ability."""
        tables = [samples_table(self.samples)] if self.samples else []
        tables.append(_score_table(self))
        if self.patched_free is not None and self.base_free is not None:
            tables.append(free_table(self.patched_free, self.base_free, stop=self.stop))
        if self.edited_routing is not None:
            kinds = {"preserved": self.preserved_routing, "untouched": self.untouched_routing}
            tables.append(routing_table(self.edited_routing, kinds))
        if self.text is not None:
            tables.append(self.text.table())
        return tables if self.tasks is None else [*tables, self.tasks.table()]


def _measurement(measurement: Measurement) -> dict[str, Any]:
    others = {name: getattr(measurement, name).to_json() for name in _OTHERS}
    made = measurement.generated
    return {
        **_scores(measurement.scores),
        **others,
        "exact": _scores(measurement.exact),
        "generated": None if made is None else _scores(made.scores) | {"exact": _scores(made.exact)},
    }


def _scores(scores: Scores) -> dict[str, Any]:
    return {name: getattr(scores, name).to_json() for name in _NAMES}


def _score_table(report: EvaluationReport) -> Table:
    title = f"{report.scoring.describe(report.facts)}: percent, with 95% interval and greedy exact match"
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("")
    for column in ("patched", "interval", "exact", "base", "interval", "exact", "prompts"):
        table.add_column(column, justify="right")
    for name in _NAMES:
        cells = (*_cells(report.patched, name), *_cells(report.base, name))
        prompts = getattr(report.patched.scores, name).n
        table.add_row(name, *cells, str(prompts), style="bold" if name == "utility" else None)
    if report.patched.generated is not None and report.base.generated is not None:
        _add_generated(table, report.patched.generated, report.base.generated)
    for name, title in _OTHERS.items():
        patched, base = getattr(report.patched, name), getattr(report.base, name)
        if patched.n:
            table.add_row(title, *_value(patched), "", *_value(base), "", str(patched.n))
    for name, same in (("locality", report.locality), ("kept", report.kept)):
        if same.n or name == "locality":
            table.add_row(name, *_value(same), "", "", "", "", str(same.n))
    return table


def _add_generated(table: Table, patched: GeneratedScores, base: GeneratedScores) -> None:
    """Rows for prompts that the base made, which have a mark that no others have."""
    for name in _NAMES[1:]:
        score = getattr(patched.scores, name)
        if score.n:
            cells = (*_cells(patched, name), *_cells(base, name))
            table.add_row(f"{name} (generated)", *cells, str(score.n))


def _cells(measurement: Measurement | GeneratedScores, name: str) -> tuple[str, str, str]:
    exact = getattr(measurement.exact, name)
    return *_value(getattr(measurement.scores, name)), _plain(exact.value, 1)


def _value(score: Score) -> tuple[str, str]:
    return _plain(score.value, 1), _interval(score)


def _interval(score: Score) -> str:
    return "-" if score.interval is None else f"{score.interval[0]:.1f} to {score.interval[1]:.1f}"


def _plain(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"

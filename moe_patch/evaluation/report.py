"""An evaluation as data: a JSON object for programs, tables for people."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from moe_patch.evaluation.metrics import GeneratedScores, Measurement, Score, Scores
from moe_patch.evaluation.routing import LayerShift, RoutingShift
from moe_patch.evaluation.rules import Scoring
from moe_patch.io.html_tables import Tabled

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

    def to_json(self) -> dict[str, Any]:
        """Plain data: percentages from 0 to 100, divergences in nats, None for what could not be measured."""
        return {
            **asdict(self.scoring),
            "facts": self.facts,
            **_measurement(self.patched),
            "locality": _score(self.locality),
            "kept": _score(self.kept),
            "base": _measurement(self.base),
            "routing": {"edited": _shift(self.edited_routing), "preserved": _shift(self.preserved_routing)},
        }

    def __repr__(self) -> str:
        return (
            f"EvaluationReport({self.facts} facts, patched: {self.patched.scores}, base: {self.base.scores})"
        )

    def tables(self) -> list[Table]:
        """The scores, then the change of routing by layer."""
        tables = [_score_table(self)]
        if self.edited_routing is not None:
            tables.append(_routing_table(self.edited_routing, self.preserved_routing))
        return tables


def _measurement(measurement: Measurement) -> dict[str, Any]:
    others = {name: _score(getattr(measurement, name)) for name in _OTHERS}
    made = measurement.generated
    return {
        **_scores(measurement.scores),
        **others,
        "exact": _scores(measurement.exact),
        "generated": None if made is None else _scores(made.scores) | {"exact": _scores(made.exact)},
    }


def _scores(scores: Scores) -> dict[str, Any]:
    return {name: _score(getattr(scores, name)) for name in _NAMES}


def _score(score: Score) -> dict[str, Any]:
    return {"value": score.value, "interval": score.interval and list(score.interval), "n": score.n}


def _shift(shift: RoutingShift | None) -> dict[str, Any] | None:
    if shift is None:
        return None
    layers = [
        {"layer": s.layer, "similarity": s.similarity, "divergence": s.divergence, "tokens": s.tokens}
        for s in shift.layers
    ]
    return {"similarity": shift.similarity, "divergence": shift.divergence, "layers": layers}


def _score_table(report: EvaluationReport) -> Table:
    title = f"{report.facts} {report.scoring.describe()}: percent, with 95% interval and greedy exact match"
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


def _routing_table(edited: RoutingShift, preserved: RoutingShift | None) -> Table:
    title = "Routing, before against after: similarity of top-K sets in percent, KL of gates in nats"
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("layer")
    for column in ("edited", "KL", "preserved", "KL"):
        table.add_column(column, justify="right")
    kept = {shift.layer: shift for shift in preserved.layers} if preserved else {}
    for shift in edited.layers:
        table.add_row(str(shift.layer), *_moved(shift), *_moved(kept.get(shift.layer)))
    table.add_row(f"mean above {edited.lowest_edited}", *_moved(edited), *_moved(preserved), style="bold")
    return table


def _moved(shift: LayerShift | RoutingShift | None) -> tuple[str, str]:
    return ("-", "-") if shift is None else (_plain(shift.similarity, 1), _plain(shift.divergence, 4))


def _plain(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"

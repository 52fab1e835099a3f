"""Evaluations side by side, of several patches: what `moe-patch eval` prints for them, or has printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_patch.bench.pooled import is_score
from moe_patch.bench.record import MAX_BYTES
from moe_patch.bench.report.figures import SCORES, Figure, evaluation_figures
from moe_patch.bench.report.tables import BASE, Grid, figure_cell
from moe_patch.errors import ConfigError
from moe_patch.io import strict_json
from moe_patch.io.reading import read_text

_SHOWN = (
    *SCORES,
    *(f"exact.{name}" for name in SCORES),
    *("locality", "kept", "answers", "agreement", "portability"),
    *(f"generated.{name}" for name in ("generalization", "specificity")),
    *("routing.edited.similarity", "routing.preserved.similarity", "text.perplexity.after"),
)
"""What the table has, as far as some evaluation has it. All of free writing follows."""

_FREE = "free.patched."
_OF_BASE = {"text.perplexity.after": "text.perplexity.before"}


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One evaluation: the patch's name, and the figures of `EvaluationReport.to_json`."""

    name: str
    report: Mapping[str, Any]

    @property
    def figures(self) -> dict[str, Figure]:
        """All figures by dotted names."""
        return evaluation_figures(self.report)


def evaluations_table(evaluated: Sequence[Evaluated]) -> Grid:
    """The main figures, a row each: the base's by the first evaluation, then those of each patch."""
    figures = [each.figures for each in evaluated]
    free = dict.fromkeys(name for each in figures for name in each if name.startswith(_FREE))
    free.pop(f"{_FREE}budget", None)
    shown = [name for name in (*_SHOWN, *free) if any(name in each for each in figures)]
    rows = tuple(
        (
            _title(name),
            figure_cell(figures[0].get(_of_base(name))),
            *(figure_cell(each.get(name)) for each in figures),
        )
        for name in shown
    )
    asked = dict.fromkeys(_asked(each.report) for each in evaluated)  # saved ones may be of different facts
    return Grid(
        f"{'; '.join(asked)}: percent, with 95% interval",
        ("", BASE, *(each.name for each in evaluated)),
        rows,
    )


def _asked(report: Mapping[str, Any]) -> str:
    """What was asked, in a few words."""
    return f"{report['facts']} {report['schema']} facts, {report['rule']} rule"


def _title(name: str) -> str:
    """A figure's name in words, between which a narrow table wraps."""
    return name.replace(_FREE, "free.").removesuffix(".similarity").replace(".", " ")


def _of_base(name: str) -> str:
    if name.startswith(_FREE):
        return name.replace(_FREE, "free.base.")
    return _OF_BASE.get(name, f"base.{name}")


def read_evaluations(path: Path) -> list[Evaluated] | None:
    """What `moe-patch eval --json` has printed into a file; None if the file holds something else.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        value: Any = strict_json.parse_json(read_text(path, MAX_BYTES))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    several = value.get("evaluations")
    if isinstance(several, list) and several and all(_is_evaluation(each) for each in several):
        return [Evaluated(f"{path.stem}: {each.get('patch', '')}", each) for each in several]
    return [Evaluated(path.stem, value)] if _is_evaluation(value) else None


def _is_evaluation(value: Any) -> bool:
    """Whether this is the plain data of an evaluation."""
    return (
        isinstance(value, dict)
        and {"facts", "schema", "rule", "base"} <= value.keys()
        and isinstance(value["base"], dict)
        and all(is_score(value.get(name)) for name in SCORES)
    )

"""Tables of the command line with values that are made up, as a terminal of some width shows them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from moe_patch.bench.report import Evaluated, evaluations_table
from moe_patch.cli.build import _choice_tables
from moe_patch.cli.console import plain_table
from moe_patch.cli.layout import fitted
from moe_patch.cli.merge import _table as merge_table
from moe_patch.cli.report import terminal_table
from moe_patch.cli.summary import fact_table, summary_tables
from moe_patch.data.facts import Fact
from moe_patch.evaluation.metrics import Measurement, Question, Score, Scores
from moe_patch.evaluation.report import EvaluationReport
from moe_patch.evaluation.routing import LayerShift, RoutingShift
from moe_patch.evaluation.rules import Scoring
from moe_patch.evaluation.samples import Asked, Said, Sample, samples_table
from moe_patch.evaluation.scoring import AnswerScore
from moe_patch.tuning.choice import Choice, Source

WIDTHS = (80, 120)

HASH = "sha256:" + 4 * "0123456789abcdef"
LONGEST = "A traveller to Samarkand who has lost the way arrives, after a long day on the road, in"


def snapshot(name: str, width: int) -> Path:
    """The file that holds what is expected."""
    return Path(__file__).with_name(f"{name}-{width}.txt")


def drawn(name: str, width: int) -> str:
    """What a terminal shows, without the spaces at the ends of lines."""
    console = Console(width=width, color_system=None, markup=False, emoji=False, highlight=False, record=True)
    with console.capture() as captured:
        for table in DRAWN[name]():
            console.print(fitted(table, console), crop=False)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def _evaluation() -> Sequence[Table]:
    return _report().tables()


def _report() -> EvaluationReport:
    def measured(*values: float) -> Measurement:
        scores = Scores(*(Score(value, (value - 2.1, value), 373) for value in values))
        return Measurement(scores, scores, Score(None, None, 0), Score(None, None, 0), Score(None, None, 0))

    moved = RoutingShift(tuple(LayerShift(layer, 70.4, 0.3298, 99) for layer in range(4)), 2)
    return EvaluationReport(
        Scoring("native", "counterfact", "target_true"),
        50,
        measured(100.0, 97.5, 97.9),
        measured(10.0, 12.5, 100.0),
        Score(91.7, (88.5, 94.1), 373),
        Score(None, None, 0),
        moved,
        moved,
    )


def _facts() -> Sequence[Table]:
    def sample(text: str, new: str, says: str, before: float, after: float) -> Sample:
        fact = Fact("0", f"{text} {{}}", "it", new, "Uzbekistan")
        scores = [AnswerScore(math.log(value), (True,)) for value in (before, after, 1 - before, 1 - after)]
        asked = Asked("fact", False, Question(text, fact), new, "Uzbekistan")
        return Sample(asked, Said("Uzbekistan", scores[0], scores[2]), Said(says, scores[1], scores[3]))

    return [
        samples_table(
            [
                sample(LONGEST, "South Korea", "South Korea", 0.001, 0.993),
                sample("In Korhogo, prices are in the", "Djiboutian Franc", "Djiboutian Franc", 0.02, 0.9),
            ]
        )
    ]


def _compared() -> Sequence[Table]:
    report = _report()
    evaluated = [Evaluated(name, report.to_json()) for name in ("moeedit-capitals", "mote-capitals")]
    return [terminal_table(evaluations_table(evaluated))]


def _patch() -> Sequence[Table]:
    facts = [
        ("country/Samarkand", LONGEST, "South Korea"),
        ("currency/Denmark", "A shop in Denmark takes the", "Euro"),
    ]
    result = {"loss_before": 7.63, "loss_edited": 0.0006, "loss_target": 0.0006, "margin": 9.365, "steps": 12}
    described: dict[str, Any] = {
        "kind": "delta",
        "method": "moeedit",
        "schema": "native",
        "facts": [{"id": i, "text": t, "target_new": n, "result": result} for i, t, n in facts],
        "taken": 0.5,
        "untaken": [
            {
                "id": "country/Samarkand",
                "text": LONGEST,
                "target_new": "South Korea",
                "says": "Uzbekistan",
                "loss": 2.1,
                "reasons": ["the layers do not reach its target value: lower lambda, or edit more layers"],
            }
        ],
        "layers": [
            {
                "layer": 2,
                "experts": 51,
                "rows": 341,
                "dense": 0,
                "ridge": 0.05352,
                "norm": 19.19,
                "largest_expert_norm": 9.1,
            }
            | {"bytes": 202_336}
        ],
        "experts": {"2": list(range(51))},
        "bypass": None,
        "bytes": 8608,
        "dense_bytes": 295_000,
        "base": {"model_type": "qwen3_moe", "config": HASH},
        "controls": 8,
        "hash": HASH,
        "created": "2026-01-31T12:00:00+00:00",
        "hyperparameters": {
            "preserved_text": {"source": "given"},
            "protection": [{"layer": 2, "protected": 0.259, "room_median": 0.025, "room_min": 0.025}],
        },
    }
    return [*summary_tables(described), fact_table(described)]


def _choice() -> Sequence[Table]:
    ships = ("recipe atlas", "it ships for this model")
    return _choice_tables(
        Choice(
            options=None,  # type: ignore[arg-type]  # not shown
            sources=(
                Source("layers", [2], *ships),
                Source("corpus", "/home/someone/moe-patch/recipes/atlas/corpus.txt", *ships),
                Source("targets.learning_rate", 0.5, "given", "--set"),
            ),
        )
    )


def _stack() -> Sequence[Table]:
    table = plain_table("moe-patch.stack: solve for qwen3_moe, revision 3", ("", "patch", "on", "hash"))
    table.add_row("1", "capitals.safetensors", "yes", HASH)
    table.add_row("2", "shared/rivers.safetensors (missing)", "no", HASH)
    return [table]


def _merge() -> Sequence[Table]:
    planned = {"out": "atlas-patched", "base": "atlas", "experts": 51, "rewritten": ["model.safetensors"]}
    planned |= {"untouched": [], "untouched_by": "hard", "disk_bytes": 31_312_866}
    return [merge_table("Written", planned)]


def _answers() -> Sequence[Table]:
    table = plain_table("", ("prompt", "before", "after", "wanted"))
    table.add_row(LONGEST, "Uzbekistan. The", "South Korea.", "South Korea")
    table.add_row("In Korhogo, prices are in the", "West African CFA", "Djiboutian Franc.", "Franc")
    return [table]


DRAWN: dict[str, Callable[[], Sequence[Table]]] = {
    "evaluation": _evaluation,
    "facts": _facts,
    "compared": _compared,
    "patch": _patch,
    "choice": _choice,
    "stack": _stack,
    "merge": _merge,
    "answers": _answers,
}

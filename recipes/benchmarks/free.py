"""The papers' scores beside those of free writing, with and without trained ends, one row each.

    python -m recipes.benchmarks.free

Free scores are by the first sentence or line. Ended is the share of replies to edited prompts that the model
ends itself within the budget.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.evaluation import FreeScores, Setting, evaluate
from moe_patch.evaluation.free.questions import Kind
from moe_patch.methods import MethodOptions, get_method

from ._runs import Run, benchmark_command

STOP = {"targets.stop": True}

RUNS = (
    Run("MoEEdit", "moeedit"),
    Run("MoEEdit, stop", "moeedit", STOP),
    Run("MoTE", "mote"),
    Run("MoTE, stop", "mote", STOP),
)
PAPERS = ("efficacy", "generalization", "specificity")
FREE: tuple[Kind, ...] = ("reliability", "generalization", "locality", "negation")


def build_and_measure(base: Base, facts: Sequence[Fact], run: Run, options: MethodOptions) -> dict[str, Any]:
    """The figures of one run, as plain data."""
    started = time.process_time()
    patch = get_method(run.method).build(base, facts, options)
    seconds = time.process_time() - started
    report = evaluate(base, patch, facts, routing=False, setting=Setting(batch_size=256))
    assert report.patched_free is not None
    papers = {name: getattr(report.patched.scores, name).value for name in PAPERS}
    return {"facts": len(facts), "papers": papers, "free": _free(report.patched_free), "seconds": seconds}


def _free(scores: FreeScores) -> dict[str, float | None]:
    shares: dict[str, float | None] = {kind: scores.score(kind).exact.value for kind in FREE}
    return {**shares, "ended": scores.stopped.value, "entropy": scores.fluency.entropy}


def table_of(records: Sequence[Mapping[str, Any]]) -> Table:
    """All runs, one row each, in percent; the entropy in bits."""
    columns = (*PAPERS, *(f"free {name}" for name in FREE), "ended", "entropy", "seconds")
    table = Table("run", "facts", *columns, title="The papers' scores, and those of free writing")
    for record in records:
        papers = [record["papers"][name] for name in PAPERS]
        shown = [_shown(value) for value in (*papers, *record["free"].values())]
        table.add_row(record["run"], str(record["facts"]), *shown, f"{record['seconds']:.0f}")
    return table


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


main = benchmark_command(__doc__, RUNS, build_and_measure, table_of, edits="50.jsonl")


if __name__ == "__main__":
    main()

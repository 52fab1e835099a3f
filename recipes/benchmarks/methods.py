"""The editing methods side by side, and MoTE's ablations: scores, routing, times and sizes, one row a run.

    python -m recipes.benchmarks.methods --json runs.jsonl
    python -m recipes.benchmarks.methods --json runs.jsonl --limit 200 --only MoTE

Every run builds a patch in sequential batches and evaluates it on its facts. Options come from the recipe
that fits the model. If it has none for a method, MoEEdit's are used, as far as the method has the same
options. A finished run is one line of the JSON file and is not run again while its options stay the same, so
an interrupted table can be continued. Times are by stage: "keys" is measuring the facts' keys, "solve"
includes spreading a solution, "statistics" is close to zero once they are cached, and "targets" are searched
anew by every run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.table import Table

from moe_patch.base.model import Base
from moe_patch.bench.run import size_on_disk
from moe_patch.bench.stopwatch import Stopwatch
from moe_patch.data.facts import Fact
from moe_patch.evaluation import EvaluationReport, Setting, evaluate
from moe_patch.methods import MethodOptions, get_method

from ._runs import Run, benchmark_command

SCORES = ("efficacy", "generalization", "specificity", "utility")
STAGES = ("statistics", "factors", "targets", "keys", "solve")


RUNS = (
    Run("MoEEdit exact", "moeedit", {"solver": "exact"}),
    Run("MoEEdit BCD", "moeedit", {"solver": "bcd"}),
    Run("MoTE", "mote"),
    Run("woodbury-spread", "woodbury-spread"),
    Run("bcd-spread", "bcd-spread"),
    Run("MoTE, whitening none", "mote", {"whitening": "none"}),
    Run("MoTE, whitening out", "mote", {"whitening": "out"}),
    Run("MoTE, whitening both", "mote", {"whitening": "both"}),
    Run("MoTE, unprojected", "mote", {"projection": False}),
    Run("MoTE, unprojected, whitening none", "mote", {"projection": False, "whitening": "none"}),
    Run("MoTE, unprojected, whitening out", "mote", {"projection": False, "whitening": "out"}),
    Run("MoTE, unprojected, whitening both", "mote", {"projection": False, "whitening": "both"}),
)


def build_and_evaluate(base: Base, facts: Sequence[Fact], run: Run, options: MethodOptions) -> dict[str, Any]:
    """The figures of one run, as plain data."""
    watch, started = Stopwatch(), time.perf_counter()
    patch = get_method(run.method).build(base, facts, options, watch)
    total = time.perf_counter() - started
    report = evaluate(base, patch, free=False, setting=Setting(batch_size=512))
    return {
        "options": options.model_dump(mode="json"),
        "threads": torch.get_num_threads(),
        **report.to_json(),
        "seconds": {stage: round(watch.seconds[stage], 3) for stage in STAGES} | {"build": round(total, 3)},
        "bytes": size_on_disk(patch),
        "tucker_ranks": patch.hyperparameters.get("tucker_ranks"),
        "loss_edited": sum(float(str(result["loss_edited"])) for result in patch.results) / len(facts),
        "routing_preserved": similarity(report, "preserved_routing"),
        "routing_edited": similarity(report, "edited_routing"),
    }


def similarity(report: EvaluationReport, prompts: str) -> float | None:
    """Mean routing similarity in percent above the lowest edit; None if no layer is above it."""
    shift = getattr(report, prompts)
    return None if shift is None else shift.similarity


def table_of(records: Sequence[Mapping[str, Any]]) -> Table:
    """All runs, one row each: percentages, seconds, and MB of the patch."""
    columns = (*SCORES, "routing edited", "preserved", *STAGES, "build s", "MB")
    table = Table("run", "facts", *columns, title="Editing methods")
    for record in records:
        percent = [record[score]["value"] for score in SCORES]
        percent += [record["routing_edited"], record["routing_preserved"]]
        seconds = [record["seconds"][stage] for stage in (*STAGES, "build")]
        cells = [f"{value:.1f}" if value is not None else "-" for value in (*percent, *seconds)]
        table.add_row(record["run"], str(record["facts"]), *cells, f"{record['bytes'] / 1e6:.1f}")
    return table


main = benchmark_command(__doc__, RUNS, build_and_evaluate, table_of, edits="1000.jsonl", batch_size=50)


if __name__ == "__main__":
    main()

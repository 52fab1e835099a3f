"""What our defaults add to the papers, and what each addition is worth: one build without it at a time.

    python -m recipes.benchmarks.additions --json runs.jsonl
    python -m recipes.benchmarks.additions --json runs.jsonl --method mote --limit 50

The first row is a build with the method's defaults. The next rows have one published choice each in the
place of ours, and the last has all of them, as `--recipe as-published` does. An addition is worth the
utility that its row lacks. Layers and preserved text are the same in all rows, but for the row in which the
base writes its text itself. A finished run is one line of the JSON file and is not run again while its
options stay the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

from moe_patch.base.model import Base
from moe_patch.base.opening import open_base
from moe_patch.data.fact_file import read_facts
from moe_patch.data.facts import Fact
from moe_patch.evaluation import Setting, evaluate
from moe_patch.evaluation.rules import scoring_of
from moe_patch.io.shipped import shipped_folder
from moe_patch.methods import MethodOptions, get_method
from moe_patch.methods.published import AS_PUBLISHED
from moe_patch.tuning.choice import NO_RECIPE, choose

from ._runs import FACTS, Run, finished_runs, key_of

OURS = "our defaults"
SCORES = ("efficacy", "generalization", "specificity", "utility")

SHARED: dict[str, dict[str, Any]] = {
    "protection of earlier batches": {"protect_earlier": False},
    "protection by energy": {"tau": 0.02},
    "lambda in the kernel's unit": {"ridge": 1.0, "ridge_relative": False},
    "a search in units of the stream": {
        "targets.units": "published",
        "targets.learning_rate": 0.1,
        "targets.weight_decay": 0.5,
        "targets.clamp": 0.75,
    },
    "a search that ends by its margin": {
        "targets.margin": None,
        "targets.share": 1.0,
        "targets.patience": None,
        "targets.stop_loss": 0.05,
        "targets.steps": 25,
    },
    "a margin for paraphrases": {"targets.share": 1.0},
    "leaving unseen experts alone": {"unseen": "edit", "min_tokens": 1},
}
"""What both methods add, by the options of a build without it."""

ADDITIONS: dict[str, dict[str, dict[str, Any]]] = {
    "moeedit": {"the exact solve": {"solver": "bcd", "passes": 4, "seed": 42}, **SHARED},
    "mote": {
        **SHARED,
        "lambda in the kernel's unit": {"ridge": 0.1, "ridge_relative": False},
        "ranks by energy": {"core_width": 4096},
        "an epsilon in the moments' unit": {"whitening_epsilon": 1e-5},
    },
}
"""The options without each addition, by method; together they are as published."""


def runs_of(method: str) -> list[Run]:
    """The rows of a method's table."""
    without = [Run(f"without {name}", method, changes) for name, changes in ADDITIONS[method].items()]
    return [Run(OURS, method), *without, Run("own text", method, {"corpus": None}), Run(AS_PUBLISHED, method)]


def options_of(base: Base, facts: Sequence[Fact], run: Run, given: Mapping[str, Any]) -> MethodOptions:
    """The run's options: its changes and what is given, over the defaults or the published options."""
    recipe = AS_PUBLISHED if run.name == AS_PUBLISHED else NO_RECIPE
    return choose(base, facts, get_method(run.method), given={**given, **run.changes}, recipe=recipe).options


def measure(base: Base, facts: Sequence[Fact], run: Run, options: MethodOptions) -> dict[str, Any]:
    """The scores of one run, in percent."""
    patch = get_method(run.method).build(base, facts, options)
    found = evaluate(base, patch, routing=False, setting=Setting(batch_size=512)).to_json()
    return {score: found[score]["value"] for score in SCORES}


def table_of(method: str, records: Sequence[Mapping[str, Any]]) -> Table:
    """One row a run, with the utility that it lacks."""
    table = Table("build", *SCORES, "worth", title=f"What the defaults of {method} add")
    ours = next((record["utility"] for record in records if record["run"] == OURS), None)
    for record in records:
        scores = [f"{record[score]:.1f}" for score in SCORES]
        worth = "" if ours is None or record["run"] == OURS else f"{ours - record['utility']:+.1f}"
        table.add_row(record["run"], *scores, worth)
    return table


@click.command(help=__doc__)
@click.option("--model", help="Name or folder; the demo model unless given.")
@click.option("--method", type=click.Choice(list(ADDITIONS)), default="moeedit", show_default=True)
@click.option("--edits", type=click.Path(exists=True, path_type=Path), default=FACTS / "200.jsonl")
@click.option("--limit", type=click.IntRange(min=1), help="Use this many facts.")
@click.option("--batch-size", type=click.IntRange(min=1), default=50, show_default=True)
@click.option("--layer", "layers", type=int, multiple=True, default=(2,), show_default=True)
@click.option("--corpus", default=str(shipped_folder() / "atlas" / "corpus.txt"), help="Preserved text.")
@click.option("--json", "lines", type=click.Path(path_type=Path), help="One line a run; read to go on.")
def main(
    model: str | None,
    method: str,
    edits: Path,
    limit: int | None,
    batch_size: int,
    layers: tuple[int, ...],
    corpus: str,
    lines: Path | None,
) -> None:
    """Run what is missing and print the table."""
    base, facts = open_base(model, dtype=torch.float32), read_facts(edits)[:limit]
    given = {"layers": list(layers), "batch_size": batch_size, "corpus": corpus}
    done, records = finished_runs(lines), []
    for run in runs_of(method):
        options = options_of(base, facts, run, given)
        key = key_of(base, facts, run, options)
        if key not in done:
            click.echo(f"{run.name}: {len(facts)} facts", err=True)
            done[key] = {"run": run.name, "key": key, **measure(base, facts, run, options)}
            if lines:
                with lines.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(done[key]) + "\n")
        records.append(done[key])
    table = table_of(method, records)
    table.caption = scoring_of(facts, facts.schema).describe()
    Console(width=160).print(table)


if __name__ == "__main__":
    main()

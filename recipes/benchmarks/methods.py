"""The editing methods side by side, and MoTE's ablations: scores, routing, times and sizes, one row a run.

    python -m moe_patch_recipes.benchmarks.methods --json runs.jsonl
    python -m moe_patch_recipes.benchmarks.methods --json runs.jsonl --limit 200 --only MoTE

Every run builds a patch in sequential batches and evaluates it on its facts. Options come from the recipe
that fits the model; where it has none for a method, MoEEdit's are taken as far as the method knows them. A
finished run is one line of the JSON file and is not run again while its options stay the same, so that an
interrupted table can be gone on with. Times are by stage: "keys" is the collection of the facts' keys,
"solve" includes what a method does to spread its solution, "statistics" is next to nothing once they are
cached, and "targets" are searched by every run for itself.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

from moe_patch.cli.overrides import merged_options, option_names, parse_setting
from moe_patch.evaluation import Report, Setting, evaluate
from moe_patch.facts import Fact, read_facts
from moe_patch.methods import MethodOptions, get_method
from moe_patch.model import Base, open_base
from moe_patch.patch import Patch, save
from moe_patch.recipes import Recipe, load_recipe, recipe_for

FACTS = Path(__file__).parents[1] / "facts" / "1000.jsonl"
SCORES = ("efficacy", "generalization", "specificity", "utility")
STAGES = ("statistics", "factors", "targets", "keys", "solve")


@dataclass(frozen=True, slots=True)
class Run:
    """One row of the table: a method and what of its options is changed."""

    name: str
    method: str
    changes: dict[str, Any] = field(default_factory=dict)


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


class Stopwatch:
    """A progress function that gives the time since the last report to the stage that reports."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._last = time.perf_counter()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """The methods' progress."""
        now = time.perf_counter()
        self.seconds[stage] += now - self._last
        self._last = now


def options_of(recipe: Recipe | None, run: Run, settings: Mapping[str, Any]) -> MethodOptions:
    """The run's options: its changes over the settings over the recipe's; a method ignores what it lacks."""
    method = get_method(run.method)
    found = recipe.method_options(run.method) if recipe else {}
    if recipe and not found:
        shared = recipe.method_options("moeedit").items()
        found = {name: value for name, value in shared if name in method.Options.model_fields}
    known = set(option_names(method.Options))
    given = {name: value for name, value in settings.items() if name in known}
    return merged_options(method.Options, found, {**given, **run.changes}, f"run {run.name}")


def build_and_evaluate(base: Base, facts: Sequence[Fact], run: Run, options: MethodOptions) -> dict[str, Any]:
    """The figures of one run, as plain data."""
    watch, started = Stopwatch(), time.perf_counter()
    patch = get_method(run.method).build(base, facts, options, watch)
    total = time.perf_counter() - started
    report = evaluate(base, patch, setting=Setting(batch_size=512))
    return {
        **report.to_json(),
        "seconds": {stage: round(watch.seconds[stage], 3) for stage in STAGES} | {"build": round(total, 3)},
        "bytes": size_on_disk(patch),
        "tucker_ranks": patch.hyperparameters.get("tucker_ranks"),
        "loss_edited": sum(float(str(result["loss_edited"])) for result in patch.results) / len(facts),
        "routing_preserved": similarity(report, "preserved_routing"),
        "routing_edited": similarity(report, "edited_routing"),
    }


def similarity(report: Report, prompts: str) -> float | None:
    """Mean routing similarity in percent above the lowest edit, or None where nothing could move."""
    shift = getattr(report, prompts)
    return None if shift is None else shift.similarity


def size_on_disk(patch: Patch) -> int:
    """Bytes of the patch's file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "patch.safetensors"
        save(patch, path)
        return path.stat().st_size


def finished(lines: Path | None) -> dict[str, dict[str, Any]]:
    """The runs that a JSON file holds, by their keys."""
    if lines is None or not lines.exists():
        return {}
    records = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines() if line.strip()]
    return {record["key"]: record for record in records}


def key_of(base: Base, facts: Sequence[Fact], run: Run, options: MethodOptions) -> str:
    """What a run's figures depend on, hashed."""
    what = [base.name, run.name, run.method, [repr(fact) for fact in facts], options.model_dump(mode="json")]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


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


@click.command(help=__doc__)
@click.option("--model", help="Name or folder; the demo model unless given.")
@click.option(
    "--edits", type=click.Path(exists=True, path_type=Path), default=FACTS, show_default="1000.jsonl"
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many facts.")
@click.option("--batch-size", default=50, show_default=True)
@click.option("--only", multiple=True, type=click.Choice([run.name for run in RUNS]), help="Only these runs.")
@click.option("--recipe", help="A .yaml file, or the name of a recipe that ships.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="An option of the methods.")
@click.option("--json", "lines", type=click.Path(path_type=Path), help="One line a run; read to go on.")
def main(
    model: str | None,
    edits: Path,
    limit: int | None,
    batch_size: int,
    only: tuple[str, ...],
    recipe: str | None,
    settings: tuple[str, ...],
    lines: Path | None,
) -> None:
    """Run what has not been run yet, and report."""
    base, facts = open_base(model, dtype=torch.float32), read_facts(edits).facts[:limit]
    found = load_recipe(recipe) if recipe else recipe_for(base)
    chosen = {"targets.use_cache": False, **dict(map(parse_setting, settings)), "batch_size": batch_size}
    done = finished(lines)
    records = []
    for run in RUNS:
        if only and run.name not in only:
            continue
        options = options_of(found, run, chosen)
        key = key_of(base, facts, run, options)
        if key not in done:
            click.echo(f"{run.name}: {len(facts)} facts", err=True)
            done[key] = {
                "run": run.name,
                "key": key,
                "options": options.model_dump(mode="json"),
                "threads": torch.get_num_threads(),
                **build_and_evaluate(base, facts, run, options),
            }
            if lines:
                with lines.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(done[key]) + "\n")
        records.append(done[key])
    Console(width=200).print(table_of(records))


if __name__ == "__main__":
    main()

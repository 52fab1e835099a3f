"""Tables with one row for each build and its measurements; a finished row is not run again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
from moe_patch.data.schemas import DEFAULT_ZSRE, ZSRE_SCHEMAS, ZsreSchema
from moe_patch.evaluation.rules import scoring_of
from moe_patch.methods import MethodOptions, get_method
from moe_patch.methods.overrides import merged_options, option_names, parse_setting
from moe_patch.methods.recipes import Recipe, load_recipe, recipe_for

FACTS = Path(__file__).parents[1] / "facts"


@dataclass(frozen=True, slots=True)
class Run:
    """One row of the table: a method, and the options that differ from the recipe's."""

    name: str
    method: str
    changes: dict[str, Any] = field(default_factory=dict)


def options_of(recipe: Recipe | None, run: Run, settings: Mapping[str, Any]) -> MethodOptions:
    """The run's options: the recipe's, overridden by settings that the method knows, then by its changes."""
    method = get_method(run.method)
    found = recipe.method_options(run.method) if recipe else {}
    if recipe and not found:
        shared = recipe.method_options("moeedit").items()
        found = {name: value for name, value in shared if name in method.Options.model_fields}
    known = set(option_names(method.Options))
    given = {name: value for name, value in settings.items() if name in known}
    options: MethodOptions = merged_options(
        method.Options, found, {**given, **run.changes}, f"run {run.name}"
    )
    return options


def finished_runs(lines: Path | None) -> dict[str, dict[str, Any]]:
    """The runs in a JSON file, by key."""
    if lines is None or not lines.exists():
        return {}
    records = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines() if line.strip()]
    return {record["key"]: record for record in records}


def key_of(base: Base, facts: Sequence[Fact], run: Run, options: MethodOptions) -> str:
    """A hash of everything that a run's figures depend on."""
    what = [base.name, run.name, run.method, [repr(fact) for fact in facts], options.model_dump(mode="json")]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


Measure = Callable[[Base, Sequence[Fact], Run, MethodOptions], dict[str, Any]]
"""The figures of one run, as plain data."""


def records_of(
    runs: Sequence[Run],
    measure: Measure,
    base: Base,
    facts: Sequence[Fact],
    recipe: Recipe | None,
    settings: Mapping[str, Any],
    lines: Path | None,
) -> list[dict[str, Any]]:
    """Each run's record: read from the JSON file if it is finished, else measured and written there."""
    done, records = finished_runs(lines), []
    for run in runs:
        options = options_of(recipe, run, settings)
        key = key_of(base, facts, run, options)
        if key not in done:
            click.echo(f"{run.name}: {len(facts)} facts", err=True)
            done[key] = {"run": run.name, "key": key, **measure(base, facts, run, options)}
            if lines:
                with lines.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(done[key]) + "\n")
        records.append(done[key])
    return records


def benchmark_command(
    doc: str | None,
    runs: Sequence[Run],
    measure: Measure,
    table_of: Callable[[Sequence[Mapping[str, Any]]], Table],
    *,
    edits: str,
    limit: int | None = None,
    batch_size: int | None = None,
) -> click.Command:
    """The command of a benchmark, which measures the missing rows of a table and prints it.

    Args:
        doc: its help.
        runs: the rows.
        measure: gives the figures of a row.
        table_of: makes the table.
        edits: the default file of facts.
        limit: the default number of facts; None for all.
        batch_size: the default number of facts in a batch; None for all.
    """
    count = click.IntRange(min=1)

    @click.command(help=doc)
    @click.option("--model", help="Name or folder; the demo model unless given.")
    @click.option(
        "--edits",
        "facts_at",
        type=click.Path(exists=True, path_type=Path),
        default=FACTS / edits,
        show_default=edits,
    )
    @click.option(
        "--schema",
        type=click.Choice(ZSRE_SCHEMAS),
        default=DEFAULT_ZSRE,
        show_default=True,
        help="What ZsRE records edit to.",
    )
    @click.option(
        "--limit", "most", type=count, default=limit, show_default=True, help="Use this many facts."
    )
    @click.option("--batch-size", "together", type=count, default=batch_size, show_default=True)
    @click.option("--only", multiple=True, type=click.Choice([run.name for run in runs]))
    @click.option("--recipe", help="A .yaml file, or the name of a recipe that ships.")
    @click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="An option of the methods.")
    @click.option("--json", "lines", type=click.Path(path_type=Path), help="One line a run; read to go on.")
    def main(
        model: str | None,
        facts_at: Path,
        schema: ZsreSchema,
        most: int | None,
        together: int | None,
        only: tuple[str, ...],
        recipe: str | None,
        settings: tuple[str, ...],
        lines: Path | None,
    ) -> None:
        base, facts = open_base(model, dtype=torch.float32), read_facts(facts_at, zsre=schema)[:most]
        found = load_recipe(recipe) if recipe else recipe_for(base)
        chosen = {"targets.use_cache": False, **dict(map(parse_setting, settings)), "batch_size": together}
        wanted = [run for run in runs if not only or run.name in only]
        records = records_of(wanted, measure, base, facts, found, chosen, lines)
        table = table_of(records)
        table.caption = scoring_of(facts, facts.schema).describe()
        Console(width=200).print(table)

    return main

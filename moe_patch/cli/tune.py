"""`moe-patch tune`: search for the options with which builds on a model are good."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_patch.cli.console import plain_table, print_json, print_tables, say
from moe_patch.cli.method_options import layers_option, method_option, settings_option
from moe_patch.cli.options import (
    NumberRange,
    corpus_option,
    json_option,
    model_options,
    open_model,
)
from moe_patch.cli.output import free_place, out_option
from moe_patch.io.wording import counted
from moe_patch.progress import progress_bars

if TYPE_CHECKING:
    from rich.table import Table

    from moe_patch.tuning.search import Trial
    from moe_patch.tuning.tuned import Tuned


@click.command(
    epilog="""\b
Examples:
  moe-patch tune --model ./Mixtral-8x7B -o mixtral.yaml
  moe-patch tune --minutes 5 --facts 12
  moe-patch tune --model ./Mixtral-8x7B --layers 4-6 --set targets.contexts=5 --json
  moe-patch build --edits facts.jsonl --model ./Mixtral-8x7B --recipe mixtral.yaml

The recipe is also kept in the cache, by the fingerprint of the model: builds on it use it if no recipe ships
for the model.
"""
)
@out_option("The recipe to write, a .yaml file.", required=False)
@method_option
@click.option(
    "--minutes",
    type=NumberRange(min=0, min_open=True, max=1e6),
    default=20.0,
    show_default=True,
    help="When to end with the best that was found so far.",
)
@click.option(
    "--facts",
    type=click.IntRange(min=4, max=10_000),
    default=20,
    show_default=True,
    help="Facts that a trial edits together: about as many as builds will have.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0, max=2**32),
    default=0,
    show_default=True,
    help="Seed of all that the model writes.",
)
@layers_option
@corpus_option
@settings_option
@click.option("--keep/--no-keep", default=True, show_default=True, help="Keep the recipe in the cache.")
@model_options
@json_option
def tune(
    out: Path | None,
    force: bool,
    method: str,
    minutes: float,
    facts: int,
    seed: int,
    layers: list[int] | None,
    corpus: tuple[str, ...] | None,
    settings: tuple[str, ...],
    keep: bool,
    as_json: bool,
    **model: Any,
) -> None:
    """Search for options that suit the model, by editing away facts that it knows.

    The model is asked for everything: facts, contexts that serve as paraphrases, neighbours, and text whose
    language should stay. One part of the facts is searched on; scores are reported for the others, and the
    defaults stay unless something is clearly better there. Options that are given are not searched.
    """
    if out is not None:
        free_place(out, force=force)
    from moe_patch.building.given import given_options
    from moe_patch.methods import get_method
    from moe_patch.tuning.kept import keep_recipe
    from moe_patch.tuning.tune import tune as run
    from moe_patch.tuning.written import outcome, write_recipe

    chosen = get_method(method)
    given = given_options(chosen, {"layers": layers, "corpus": corpus}, settings)
    base = open_model(**model)
    with progress_bars() as progress:
        tuned = run(base, chosen, minutes=minutes, facts=facts, seed=seed, given=given, progress=progress)
    if out is not None:
        write_recipe(tuned, out)
    if keep:
        keep_recipe(base, tuned.recipe)
    if as_json:
        print_json(tuned.to_json() | {"file": out and str(out), "kept": keep})
        return
    print_tables(*_tables(tuned))
    say("", outcome(tuned))
    if out is not None:
        say(f"{out}: recipe {tuned.recipe.name}")


def _tables(tuned: Tuned) -> list[Table]:
    """The trials, and the check."""
    from moe_patch.tuning.written import COLUMNS, score_row

    columns = ("trial", "differs from the defaults in", "facts", *COLUMNS[1:], "seconds")
    numbers = [column for column in columns if column != "differs from the defaults in"]
    trials = plain_table(f"Trials ({len(tuned.trials)})", columns, right=numbers)
    for number, trial in enumerate(tuned.trials, start=1):
        chosen = " *" if trial is tuned.best else ""
        figures = ("",) * 5 if trial.score is None else score_row("", trial.score)[1:]
        what = trial.failure or _changes(tuned, trial)
        trials.add_row(f"{number}{chosen}", what, str(trial.facts), *figures, f"{trial.seconds:.1f}")
    if tuned.check is None:
        return [trials]
    title = f"Check, on {counted(len(tuned.check.default.facts), 'fact')} that were not searched on"
    check = plain_table(title, COLUMNS, right=COLUMNS[1:])
    check.add_row(*score_row("defaults", tuned.check.default))
    if tuned.best.point != tuned.space.start:
        check.add_row(*score_row("best of the search", tuned.check.best))
    return [trials, check]


def _changes(tuned: Tuned, trial: Trial) -> str:
    """What a trial changes, as settings."""
    changes = tuned.space.changes(trial.point)
    return " ".join(f"{name}={json.dumps(value)}" for name, value in changes.items()) or "nothing"

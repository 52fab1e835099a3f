"""Search for the best hyper-parameters of a method on a model: a table of every combination.

    python -m recipes.training.search --edits recipes/facts/50.jsonl \
        --vary 'layers=[2]|[1,2]|[0,1,2]' --vary 'energy=0.9|0.95|0.98'

Values are YAML, separated by |. Other options come from --set, and from the recipe that fits the model unless
--no-recipe is given. Statistics are cached, so a combination takes the time of its targets, its solve and its
evaluation.
"""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import click
import torch
import yaml
from rich.console import Console
from rich.table import Table

from moe_patch.base.model import Base
from moe_patch.base.opening import open_base
from moe_patch.data.fact_file import read_facts
from moe_patch.evaluation import EvaluationReport, Setting, evaluate
from moe_patch.methods import MethodOptions, get_method
from moe_patch.methods.overrides import merged_options, parse_setting
from moe_patch.methods.recipes import recipe_for


def combinations(vary: tuple[str, ...]) -> list[dict[str, Any]]:
    """Every choice of one value per varied option: {"energy": 0.9, "targets.clamp": 1.5}."""
    names = [item.split("=", 1)[0] for item in vary]
    values = [[yaml.safe_load(text) for text in item.split("=", 1)[1].split("|")] for item in vary]
    return [dict(zip(names, chosen, strict=True)) for chosen in itertools.product(*values)]


def with_choices(method: str, recipe: dict[str, Any], choices: dict[str, Any]) -> MethodOptions:
    """The recipe's options with dotted choices set; a choice of tau or energy removes the other one."""
    dropped = {"energy": "tau", "tau": "energy"}
    rivals = {dropped[name] for name in choices if name in dropped}
    kept = {name: value for name, value in recipe.items() if name not in rivals}
    return merged_options(get_method(method).Options, kept, choices, "recipe")


def trial(base: Base, facts: Path, method: str, options: MethodOptions) -> tuple[EvaluationReport, float]:
    """One build and its evaluation, with the seconds that the build took."""
    started = time.monotonic()
    patch = get_method(method).build(base, read_facts(facts).facts, options)
    seconds = time.monotonic() - started
    return evaluate(base, patch, free=False, setting=Setting(batch_size=512)), seconds


@click.command()
@click.option("--edits", type=click.Path(exists=True, path_type=Path), required=True, help="Facts.")
@click.option("--model", help="Model folder; atlas if not given.")
@click.option("--method", default="moeedit", show_default=True)
@click.option(
    "--vary", multiple=True, required=True, metavar="OPTION=A|B|...", help="An option and its values."
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="An option of all combinations.")
@click.option("--no-recipe", is_flag=True, help="Start from the method's defaults.")
@click.option(
    "--json", "lines", type=click.Path(path_type=Path), help="Append one JSON line per trial to this file."
)
def main(
    edits: Path,
    model: str | None,
    method: str,
    vary: tuple[str, ...],
    settings: tuple[str, ...],
    no_recipe: bool,
    lines: Path | None,
) -> None:
    """Try every combination and print efficacy, generalization, specificity, utility and routing."""
    base = open_base(model, dtype=torch.float32)
    recipe = None if no_recipe else recipe_for(base)
    same = dict(map(parse_setting, settings))
    start = recipe.method_options(method) if recipe else {}
    table = Table(
        "options", "efficacy", "generalization", "specificity", "base's", "utility", "routing", "seconds"
    )
    for choices in combinations(vary):
        report, seconds = trial(base, edits, method, with_choices(method, start, same | choices))
        scores, before = report.patched.scores, report.base.scores
        kept = report.preserved_routing
        figures = [
            scores.efficacy,
            scores.generalization,
            scores.specificity,
            before.specificity,
            scores.utility,
        ]
        similarity = kept.similarity if kept and kept.similarity is not None else float("nan")
        row = [
            json.dumps(choices),
            *(f"{s.value:.1f}" for s in figures if s.value is not None),
            f"{similarity:.1f}",
        ]
        table.add_row(*row, f"{seconds:.1f}")
        click.echo(" ".join(row), err=True)
        if lines:
            with lines.open("a", encoding="utf-8") as file:
                record = {"choices": choices, "figures": row[1:], "seconds": round(seconds, 1)}
                file.write(json.dumps(record) + "\n")
    Console(width=160).print(table)


if __name__ == "__main__":
    main()

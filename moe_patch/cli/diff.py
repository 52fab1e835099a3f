"""`moe-patch diff`: the differences between two patches."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_patch.cli.console import plain_table, print_json, print_tables, say
from moe_patch.cli.options import FILE, json_option

if TYPE_CHECKING:
    from rich.table import Table

    from moe_patch.stack.compare import PatchDifference


@click.command(epilog="\b\nExample:\n  moe-patch diff capitals.safetensors fewer.safetensors --json")
@click.argument("first_path", metavar="A", type=FILE)
@click.argument("second_path", metavar="B", type=FILE)
@json_option
def diff(first_path: Path, second_path: Path, as_json: bool) -> None:
    """Show the differences between patches A and B: facts, deltas, settings. Needs no model."""
    from moe_patch.patch import load
    from moe_patch.stack.compare import compare_patches

    first, second = load(first_path), load(second_path)
    if first.hash == second.hash:
        print_json({"same": True}) if as_json else say(f"The same patch: {first.hash}")
        return
    found = compare_patches(first, second)
    if as_json:
        print_json(_json(found))
        return
    print_tables(*_tables(found))
    if not found.same_base:
        say("The two patches belong to different bases.")


def _json(found: PatchDifference) -> dict[str, Any]:
    return {"same": False, **asdict(found)}


def _tables(found: PatchDifference) -> list[Table]:
    tables = []
    facts = plain_table("Facts", ("", "id", "prompt", "A", "B"))
    for fact in found.removed:
        facts.add_row("-", fact.id, fact.text, fact.target_new, "")
    for fact in found.added:
        facts.add_row("+", fact.id, fact.text, "", fact.target_new)
    for before, after in found.changed:
        facts.add_row("~", after.id, after.text, before.target_new, after.target_new)
    if facts.row_count:
        tables.append(facts)
    columns = ("layer", "norm of A", "norm of B", "norm of B - A", "cosine")
    layers = plain_table("Deltas", columns, right=columns)
    for layer in found.layers:
        figures = (layer.first, layer.second, layer.apart, layer.cosine)
        layers.add_row(str(layer.layer), *(f"{figure:.4g}" for figure in figures))
    tables.append(layers)
    if found.settings:
        settings = plain_table("Settings", ("", "A", "B"))
        for name, (before_value, after_value) in found.settings.items():
            settings.add_row(name, str(before_value), str(after_value))
        tables.append(settings)
    return tables

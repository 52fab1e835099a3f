"""`moe-patch recipes list`: names, methods, models and sources."""

from __future__ import annotations

import click

from moe_patch.cli.console import plain_table, print_json, print_tables
from moe_patch.cli.options import json_option


@click.command("list", epilog="\b\nExample:\n  moe-patch recipes list --json")
@json_option
def show_all(as_json: bool) -> None:
    """List the recipes that ship: for which methods, which models they fit, and whose options they are."""
    from moe_patch.methods.shipped_recipes import list_recipes

    found = list(list_recipes())
    if as_json:
        listed = [
            {"name": one.name, "methods": list(one.methods), "match": one.match, "source": one.source}
            for one in found
        ]
        print_json({"recipes": listed})
        return
    table = plain_table(f"Recipes ({len(found)})", ("--recipe", "methods", "fits models with", "from"))
    for one in found:
        match = ", ".join(f"{field} {value}" for field, value in (one.match or {}).items())
        table.add_row(one.name, ", ".join(one.methods), match or "any model", one.source or "")
    print_tables(table)

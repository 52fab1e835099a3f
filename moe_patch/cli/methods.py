"""`moe-patch methods`: the registry of editing methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from moe_patch.cli.console import plain_table, print_json, print_tables
from moe_patch.cli.options import json_option

if TYPE_CHECKING:
    from moe_patch.methods import Method


@click.command(
    epilog="""\b
Examples:
  moe-patch methods
  moe-patch methods --json
""",
)
@json_option
def methods(as_json: bool) -> None:
    """List the editing methods: what each changes, the kind of its patches, and its paper.

    A rival is a method of others that is here to compare with. It is built, applied and measured like any.
    """
    from moe_patch.methods import METHODS

    described = [_described(method) for method in METHODS.values()]
    if as_json:
        print_json({"methods": described})
        return
    table = plain_table(
        f"Editing methods ({len(described)})", ("--method", "name", "patches", "changes", "paper", "")
    )
    for one in described:
        rival = "rival" if one["rival"] else ""
        table.add_row(one["method"], one["name"], one["kind"], one["changes"], one["paper"], rival)
    print_tables(table)


def _described(method: Method[Any]) -> dict[str, Any]:
    """What the registry says of a method."""
    return {
        "method": method.name,
        "name": method.pretty_name,
        "kind": method.kind,
        "changes": method.changes,
        "paper": method.reference_url(),
        "rival": method.rival,
        "edits_dense": method.edits_dense,
        "options": sorted(method.Options.model_fields),
    }

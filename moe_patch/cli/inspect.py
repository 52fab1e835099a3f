"""`moe-patch inspect`: show the contents of a patch file without opening a model."""

from __future__ import annotations

from pathlib import Path

import click

from moe_patch.cli.console import print_json, print_tables
from moe_patch.cli.options import FILE, json_option

SHOWN = 10  # facts in the table without --all


@click.command(
    epilog="""\b
Examples:
  moe-patch inspect capitals.safetensors --all
  moe-patch inspect capitals.safetensors --json
"""
)
@click.argument("patch_path", metavar="PATCH", type=FILE)
@click.option("--all", "show_all", is_flag=True, help=f"Show every fact, not only the first {SHOWN}.")
@json_option
def inspect(patch_path: Path, show_all: bool, as_json: bool) -> None:
    """Show the contents of PATCH: facts, layers, experts, sizes, norms, base and hash.

    The whole file and its hash are checked first. No model is needed.
    """
    from moe_patch.cli.summary import describe_patch, fact_table, summary_tables
    from moe_patch.patch import load

    described = describe_patch(load(patch_path), patch_path)
    if as_json:
        print_json(described)
    else:
        print_tables(*summary_tables(described), fact_table(described, None if show_all else SHOWN))

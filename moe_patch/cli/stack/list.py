"""`moe-patch stack list`: the patches of a stack, from the lock file alone."""

from __future__ import annotations

import os
from pathlib import Path

import click

from moe_patch.cli.console import plain_table, print_json, print_tables
from moe_patch.cli.options import json_option
from moe_patch.cli.stack.options import lock_json, stack_option


@click.command("list", epilog="\b\nExample:\n  moe-patch stack list --json")
@stack_option
@json_option
def show(lock_path: Path, as_json: bool) -> None:
    """Show the patches of the stack, the lowest first."""
    from moe_patch.stack import read_lock
    from moe_patch.stack.lockfile import patch_path

    lock = read_lock(lock_path)
    if as_json:
        print_json(lock_json(lock))
        return
    base = f" for {lock.base.model_type}" if lock.base else ""
    table = plain_table(
        f"{lock_path}: {lock.combine}{base}, revision {lock.revision}", ("", "patch", "on", "hash")
    )
    for number, entry in enumerate(lock.patch, start=1):
        found = os.path.isfile(patch_path(entry, lock_path))  # noqa: PTH113 (for it, an impossible path is none)
        there = "" if found else " (missing)"
        table.add_row(str(number), entry.path + there, "yes" if entry.enabled else "no", entry.hash)
    print_tables(table)

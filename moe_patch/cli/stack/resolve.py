"""`moe-patch stack resolve`: write one patch that equals the stack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from moe_patch.cli.console import print_json, print_tables, say
from moe_patch.cli.options import json_option
from moe_patch.cli.output import free_place, out_option
from moe_patch.cli.stack.options import (
    combine_option,
    conflict_options,
    limits_of,
    stack_option,
)
from moe_patch.io.wording import counted


@click.command(
    epilog="""\b
Examples:
  moe-patch stack resolve -o all.safetensors
  moe-patch stack resolve -o all.safetensors --combine add --allow-conflicts
"""
)
@out_option()
@combine_option
@conflict_options
@stack_option
@json_option
def resolve(
    out: Path,
    force: bool,
    combine: Any,
    warn: float | None,
    refuse: float | None,
    allow_conflicts: bool,
    lock_path: Path,
    as_json: bool,
) -> None:
    """Write one patch that equals the stack. Needs no model.

    If several patches answer one question, the later patch wins. Stacks that `stack check` refuses are
    refused here too.
    """
    free_place(out, force=force)
    from moe_patch.cli.summary import describe_patch, summary_tables
    from moe_patch.patch import save
    from moe_patch.stack import resolve_stack

    combined = resolve_stack(lock_path, combine, limits_of(warn, refuse), allow_conflicts=allow_conflicts)
    save(combined.patch, out)
    described = describe_patch(combined.patch, out)
    if as_json:
        print_json(described | {"patch": str(out), "notes": list(combined.notes)})
        return
    print_tables(*summary_tables(described))
    for note in combined.notes:
        say(f"note: {note}")
    say("", f"{out}: {counted(len(combined.patch.facts), 'fact')}")

"""`moe-patch stack diff`: the changes between two revisions of a stack, or between two stacks."""

from __future__ import annotations

from pathlib import Path

import click

from moe_patch.cli.console import print_json, say
from moe_patch.cli.options import FILE, json_option
from moe_patch.cli.stack.options import stack_option


@click.command(
    epilog="""\b
Examples:
  moe-patch stack diff
  moe-patch stack diff release.stack
"""
)
@click.argument("other", required=False, type=FILE)
@stack_option
@json_option
def diff(other: Path | None, lock_path: Path, as_json: bool) -> None:
    """Show the changes since the stack's previous revision, or between the stack and OTHER."""
    from moe_patch.stack import read_lock
    from moe_patch.stack.lock_changes import compare_locks
    from moe_patch.stack.store import previous_lock

    lock = read_lock(lock_path)
    before, after = (lock, read_lock(other)) if other else (previous_lock(lock_path, lock), lock)
    changes = compare_locks(before, after)
    if as_json:
        print_json({"changes": changes})
    else:
        say(*changes or ["No difference."])

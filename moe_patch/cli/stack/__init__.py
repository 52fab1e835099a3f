"""`moe-patch stack`: an ordered list of patches for one base, kept in a lock file."""

from __future__ import annotations

import click

from moe_patch.cli.stack.change import add, combine, disable, enable, init, move, remove, undo
from moe_patch.cli.stack.check import check
from moe_patch.cli.stack.diff import diff
from moe_patch.cli.stack.list import show
from moe_patch.cli.stack.resolve import resolve


@click.group(
    epilog="""\b
Examples:
  moe-patch stack init capitals.safetensors rivers.safetensors
  moe-patch stack check
  moe-patch stack resolve -o both.safetensors
""",
)
def stack() -> None:
    """Manage a stack: an ordered list of patches, each enabled or disabled.

    A stack is a lock file with the hash of every patch. Every change replaces the file in one step and can
    be undone.
    """


for command in (init, add, remove, enable, disable, move, combine, show, check, diff, resolve, undo):
    stack.add_command(command)

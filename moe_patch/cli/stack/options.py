"""Options that the stack commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from moe_patch.cli.options import NEW_FILE, NumberRange

if TYPE_CHECKING:
    from moe_patch.stack import Lock
    from moe_patch.stack.check import ShiftLimits

F = TypeVar("F", bound=Callable[..., Any])

stack_option = click.option(
    "--stack",
    "lock_path",
    type=NEW_FILE,
    default=Path("moe-patch.stack"),
    show_default=True,
    help="The stack's lock file.",
)

allow_option = click.option(
    "--allow-conflicts", is_flag=True, help="Allow patches that contradict or disturb one another."
)

HOW = click.Choice(["add", "solve"])

combine_option = click.option(
    "--combine",
    type=HOW,
    help="Add the deltas, or solve for all facts jointly.",
)


def conflict_options(command: F) -> F:
    """Add the options for the limits of disturbance between patches."""
    for option in (
        allow_option,
        click.option(
            "--refuse",
            type=NumberRange(min=0),
            help="Refuse if a fact is moved by this share of its own edit.  [default: 1.0]",
        ),
        click.option("--warn", type=NumberRange(min=0), help="Warn from this share on.  [default: 0.25]"),
    ):
        command = option(command)
    return command


def limits_of(warn: float | None, refuse: float | None) -> ShiftLimits:
    """The limits that `conflict_options` describe."""
    from moe_patch.stack.check import REFUSE, WARN, ShiftLimits

    return ShiftLimits(WARN if warn is None else warn, REFUSE if refuse is None else refuse)


def lock_json(lock: Lock) -> dict[str, Any]:
    """A stack as plain data."""
    patches = [{"number": n, **entry.model_dump()} for n, entry in enumerate(lock.patch, start=1)]
    return {**lock.model_dump(exclude={"patch"}), "patches": patches}

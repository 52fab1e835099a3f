"""The commands that change a stack, such as `init`, `add`, `enable`, `combine` and `undo`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_patch.cli.console import say
from moe_patch.cli.options import FILE
from moe_patch.cli.stack.options import HOW, allow_option, combine_option, stack_option
from moe_patch.io.wording import counted

if TYPE_CHECKING:
    from moe_patch.stack import Lock

patches_argument = click.argument("names", metavar="PATCH...", nargs=-1, required=True)


@click.command(epilog="\b\nExample:\n  moe-patch stack init capitals.safetensors --combine add")
@click.argument("paths", metavar="[PATCH]...", nargs=-1, type=FILE)
@combine_option
@allow_option
@stack_option
def init(paths: Sequence[Path], combine: Any, allow_conflicts: bool, lock_path: Path) -> None:
    """Create a stack of PATCHes, the lowest first, or an empty stack."""
    from moe_patch.stack import Lock, create_lock

    lock = _grown(Lock(combine=combine or "solve"), paths, lock_path, allow_conflicts)
    _say(lock_path, create_lock(lock_path, lock))


@click.command(epilog="\b\nExample:\n  moe-patch stack add rivers.safetensors --position 1")
@click.argument("paths", metavar="PATCH...", nargs=-1, required=True, type=FILE)
@click.option(
    "--position", type=click.IntRange(min=1), help="Place of the first one, from 1.  [default: on top]"
)
@allow_option
@stack_option
def add(paths: Sequence[Path], position: int | None, allow_conflicts: bool, lock_path: Path) -> None:
    """Add PATCHes to the stack.

    A patch is refused if it belongs to another base or contradicts an enabled patch.
    """
    _change(lock_path, lambda lock: _grown(lock, paths, lock_path, allow_conflicts, position))


@click.command(epilog="\b\nExample:\n  moe-patch stack remove capitals")
@patches_argument
@stack_option
def remove(names: Sequence[str], lock_path: Path) -> None:
    """Remove PATCHes, given by number, name or hash, from the stack. Their files stay."""
    from moe_patch.stack import operations

    def without(lock: Lock) -> Lock:
        for number in sorted(_numbers(lock, names), reverse=True):
            lock = operations.remove_entry(lock, number)
        return lock

    _change(lock_path, without)


@click.command(epilog="\b\nExample:\n  moe-patch stack enable capitals")
@patches_argument
@allow_option
@stack_option
def enable(names: Sequence[str], allow_conflicts: bool, lock_path: Path) -> None:
    """Enable PATCHes of the stack, given by number, name or hash."""

    def switched_on(lock: Lock) -> Lock:
        lock = _switched(lock, names, on=True)
        if not allow_conflicts:
            from moe_patch.stack.check import refuse_contradictions

            refuse_contradictions(lock, lock_path)
        return lock

    _change(lock_path, switched_on)


@click.command(epilog="\b\nExample:\n  moe-patch stack disable 2")
@patches_argument
@stack_option
def disable(names: Sequence[str], lock_path: Path) -> None:
    """Disable PATCHes of the stack, given by number, name or hash. They keep their place."""
    _change(lock_path, lambda lock: _switched(lock, names, on=False))


@click.command(epilog="\b\nExample:\n  moe-patch stack move capitals 1")
@click.argument("name", metavar="PATCH")
@click.argument("position", type=click.IntRange(min=1))
@stack_option
def move(name: str, position: int, lock_path: Path) -> None:
    """Move a PATCH of the stack, given by number, name or hash, to POSITION; 1 is the lowest."""
    from moe_patch.stack import operations

    _change(lock_path, lambda lock: operations.move_entry(lock, operations.find_entry(lock, name), position))


@click.command(epilog="\b\nExample:\n  moe-patch stack combine add")
@click.argument("how", type=HOW)
@stack_option
def combine(how: Any, lock_path: Path) -> None:
    """Set HOW the stack's patches are combined: add their deltas, or solve for all their facts jointly."""
    from moe_patch.stack import operations

    _change(lock_path, lambda lock: operations.set_combine(lock, how))


@click.command(epilog="\b\nExample:\n  moe-patch stack undo")
@stack_option
def undo(lock_path: Path) -> None:
    """Undo the last change of the stack. Run it again to undo the change before it."""
    from moe_patch.stack import undo_lock

    _say(lock_path, undo_lock(lock_path))


def _change(lock_path: Path, change: Callable[[Lock], Lock]) -> None:
    from moe_patch.stack import change_lock

    _say(lock_path, change_lock(lock_path, change))


def _grown(
    lock: Lock, paths: Sequence[Path], lock_path: Path, allow_conflicts: bool, position: int | None = None
) -> Lock:
    if not paths:
        return lock
    from moe_patch.patch import load
    from moe_patch.patch.base_record import BaseRecord
    from moe_patch.stack import operations
    from moe_patch.stack.check import refuse_contradictions
    from moe_patch.stack.members import entry_for

    for offset, path in enumerate(paths):
        patch = load(path)
        place = None if position is None else position + offset
        lock = operations.add_entry(lock, entry_for(path, patch, lock_path), BaseRecord.of(patch.base), place)
    if not allow_conflicts:
        refuse_contradictions(lock, lock_path)
    return lock


def _switched(lock: Lock, names: Sequence[str], *, on: bool) -> Lock:
    from moe_patch.stack import operations

    for number in _numbers(lock, names):
        lock = operations.enable_entry(lock, number, on)
    return lock


def _numbers(lock: Lock, names: Sequence[str]) -> set[int]:
    from moe_patch.stack import operations

    return {operations.find_entry(lock, name) for name in names}


def _say(lock_path: Path, lock: Lock) -> None:
    on = sum(entry.enabled for entry in lock.patch)
    count = counted(len(lock.patch), "patch", "patches")
    say(f"{lock_path}: {count}, {on} on, revision {lock.revision}")

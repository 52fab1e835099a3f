"""From a lock file to the patch that equals its stack, or to that patch and the stack's bypasses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moe_patch.errors import MoePatchError, StackError
from moe_patch.patch import Patch
from moe_patch.stack.check import ShiftLimits, check_combined
from moe_patch.stack.combine import Combined, combine_deltas, require_deltas
from moe_patch.stack.lockfile import Combine
from moe_patch.stack.members import Stacked, load_enabled
from moe_patch.stack.store import read_lock


@dataclass(frozen=True, slots=True, eq=False)
class ResolvedStack:
    """What a stack amounts to: one delta patch and its bypasses."""

    delta: Patch | None  # None if all its patches are bypasses
    bypasses: tuple[Patch, ...]
    hashes: tuple[str, ...]  # of its enabled patches, the lowest first
    notes: tuple[str, ...]  # for the user


def resolve_stack(
    lock_path: Path,
    how: Combine | None = None,
    limits: ShiftLimits | None = None,
    *,
    allow_conflicts: bool = False,
) -> Combined:
    """The patch that equals the stack at `lock_path`, and notes for the user.

    Args:
        how: "add" or "solve"; None takes the stack's own setting.

    Raises:
        StackError: there is no stack, none of its patches is enabled, they cannot be combined, or
            `check_combined` refuses the result.
        PatchError: a file is damaged or is not the locked one.
    """
    lock = read_lock(lock_path)
    stacked = load_enabled(lock, lock_path)
    require_deltas(stacked)
    parts = _parts(stacked, how or lock.combine, limits, lock_path, allow_conflicts=allow_conflicts)
    assert parts.delta is not None  # because all patches are deltas
    return Combined(parts.delta, parts.notes)


def resolve_with_bypasses(lock_path: Path) -> ResolvedStack:
    """Resolve a stack that may contain bypasses.

    Raises:
        StackError: as for `resolve_stack`, but bypasses are allowed.
        PatchError: a file is damaged or is not the locked one.
    """
    lock = read_lock(lock_path)
    stacked = load_enabled(lock, lock_path)
    if not stacked:
        raise StackError(f"{lock_path}: no patch of the stack is enabled")
    return _parts(stacked, lock.combine, None, lock_path, allow_conflicts=False)


def _parts(
    stacked: Sequence[Stacked],
    how: Combine,
    limits: ShiftLimits | None,
    lock_path: Path,
    *,
    allow_conflicts: bool,
) -> ResolvedStack:
    try:
        combined = combine_deltas(stacked, how)
    except MoePatchError as error:
        raise StackError(f"{lock_path}: {error}") from error
    check = check_combined(stacked, combined, how, limits, allow_conflicts=allow_conflicts)
    if check.refused:
        raise StackError(f"{lock_path}: {check.findings[0].text}")
    warnings = tuple(finding.text for finding in check.findings if finding.level == "warn")
    return ResolvedStack(
        delta=None if combined is None else combined.patch,
        bypasses=tuple(member.patch for member in stacked if member.patch.kind == "bypass"),
        hashes=tuple(member.patch.hash for member in stacked),
        notes=warnings if combined is None else combined.notes + warnings,
    )

"""From a lock file to the one patch that equals it, or to that and the bypasses that no delta stands for."""

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
    """What a stack comes to: one delta, its bypasses, the hashes of its patches, and what is to be said."""

    delta: Patch | None  # None where all its patches are bypasses
    bypasses: tuple[Patch, ...]
    hashes: tuple[str, ...]  # the lowest first
    notes: tuple[str, ...]


def resolve_stack(
    lock_path: Path,
    how: Combine | None = None,
    limits: ShiftLimits | None = None,
    *,
    allow_conflicts: bool = False,
) -> Combined:
    """The patch that equals the stack at `lock_path`, and what is to be said of it.

    Args:
        how: `add` or `solve`; None is what the stack says.

    Raises:
        StackError: there is no stack, none of its patches is on, they cannot be combined, or `check_combined`
            refuses what came out.
        PatchError: a file is damaged or is not the locked one.
    """
    lock = read_lock(lock_path)
    stacked = load_enabled(lock, lock_path)
    require_deltas(stacked)
    parts = _parts(stacked, how or lock.combine, limits, lock_path, allow_conflicts=allow_conflicts)
    assert parts.delta is not None  # as all patches are deltas
    return Combined(parts.delta, parts.notes)


def resolve_with_bypasses(lock_path: Path) -> ResolvedStack:
    """`resolve_stack` for what can run bypasses too; raises as it does."""
    lock = read_lock(lock_path)
    stacked = load_enabled(lock, lock_path)
    if not stacked:
        raise StackError(f"{lock_path}: no patch of the stack is on")
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

"""From a lock file to the one patch that equals it."""

from __future__ import annotations

from pathlib import Path

from moe_patch.errors import StackError
from moe_patch.stack.check import Limits, check_members
from moe_patch.stack.combine import Combined, require_deltas
from moe_patch.stack.contents import load_enabled
from moe_patch.stack.lockfile import Combine
from moe_patch.stack.store import read_lock


def resolve_stack(
    lock_path: Path,
    how: Combine | None = None,
    limits: Limits | None = None,
    *,
    allow_conflicts: bool = False,
) -> Combined:
    """The patch that equals the stack at `lock_path`, and what is to be said of it.

    Args:
        how: `add` or `solve`; None is what the stack says.

    Raises:
        StackError: there is no stack, none of its patches is on, or `check_members` refuses it.
        PatchError: a file is damaged, is not the locked one, or cannot be solved again.
    """
    lock = read_lock(lock_path)
    stacked = load_enabled(lock, lock_path)
    require_deltas(stacked)
    check = check_members(stacked, how or lock.combine, limits, allow_conflicts=allow_conflicts)
    if check.refused or check.combined is None:
        raise StackError(f"{lock_path}: {check.findings[0].text}")
    warnings = tuple(finding.text for finding in check.findings if finding.level == "warn")
    return Combined(check.combined.patch, check.combined.notes + warnings)

"""Stacks of patches: an ordered list in a lock file, and the algebra that makes one patch of them.

Nothing here opens a model. `moe_patch.Stack` puts patches on one. Imported by `methods`, serving and `cli`.
It imports `solve`, `patch` and what is below, and no transformers.
"""

from __future__ import annotations

from moe_patch.stack.combine import Combined, combine
from moe_patch.stack.drop import drop
from moe_patch.stack.lockfile import Combine, Entry, Lock
from moe_patch.stack.members import Stacked, load_enabled
from moe_patch.stack.resolve import Parts, resolve_parts, resolve_stack
from moe_patch.stack.store import DEFAULT_NAME, change_lock, create_lock, read_lock, undo_lock

__all__ = [
    "DEFAULT_NAME",
    "Combine",
    "Combined",
    "Entry",
    "Lock",
    "Parts",
    "Stacked",
    "change_lock",
    "combine",
    "create_lock",
    "drop",
    "load_enabled",
    "read_lock",
    "resolve_parts",
    "resolve_stack",
    "undo_lock",
]

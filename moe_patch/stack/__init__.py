"""Stacks of patches: an ordered list in a lock file, and the algebra that combines its patches into one.

Nothing here opens a model. `moe_patch.Stack` applies patches to one. Imported by `methods`, serving and
`cli`. It imports `solve`, `patch` and what is below, and no transformers. The names below are
imported on first use: a lock file is listed and changed without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe_patch.io.lazy_package import lazy_names

if TYPE_CHECKING:
    from moe_patch.stack.combine import Combined, combine_patches
    from moe_patch.stack.drop import drop_facts
    from moe_patch.stack.lockfile import Combine, Entry, Lock
    from moe_patch.stack.members import Stacked, load_enabled
    from moe_patch.stack.resolve import ResolvedStack, resolve_stack, resolve_with_bypasses
    from moe_patch.stack.store import DEFAULT_NAME, change_lock, create_lock, read_lock, undo_lock

__all__ = [
    "DEFAULT_NAME",
    "Combine",
    "Combined",
    "Entry",
    "Lock",
    "ResolvedStack",
    "Stacked",
    "change_lock",
    "combine_patches",
    "create_lock",
    "drop_facts",
    "load_enabled",
    "read_lock",
    "resolve_stack",
    "resolve_with_bypasses",
    "undo_lock",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "DEFAULT_NAME": "store",
            "Combine": "lockfile",
            "Combined": "combine",
            "Entry": "lockfile",
            "Lock": "lockfile",
            "ResolvedStack": "resolve",
            "Stacked": "members",
            "change_lock": "store",
            "combine_patches": "combine",
            "create_lock": "store",
            "drop_facts": "drop",
            "load_enabled": "members",
            "read_lock": "store",
            "resolve_stack": "resolve",
            "resolve_with_bypasses": "resolve",
            "undo_lock": "store",
        },
    )

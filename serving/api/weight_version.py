"""What a server answers when it is asked which weights it has: one name for each sum of patches.

The name can be worked out from a stack's lock file before any server has it (`moe-patch live version`), so
that a fleet can wait for it. It does not depend on how patches got there: two that were loaded and added up
are the same as two that were put on one after the other. Patches that were solved jointly are another sum.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from moe_patch.io import strict_json
from moe_patch.stack import Combine, read_lock

BARE = "base"
"""The version of the base without any patch."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The patches that are in the weights since they were loaded, the lowest first, and how they got in."""

    hashes: tuple[str, ...] = ()
    combine: Combine = "add"

    def terms(self) -> list[JsonValue]:
        """What is added up: patches, or one joint solution of several."""
        hashes: list[JsonValue] = list(self.hashes)
        return [{"solve": hashes}] if self.combine == "solve" and len(hashes) > 1 else hashes


def weight_version(loaded: Loaded, live: Sequence[str]) -> str:
    """The version of a base with these patches in its weights, and those on top; the lowest first."""
    terms = [*loaded.terms(), *live]
    if not terms:
        return BARE
    return f"sha256:{hashlib.sha256(strict_json.canonical_json(terms).encode()).hexdigest()}"


def loaded_from(stack: Path) -> Loaded:
    """What a server that is started with the stack at `stack` will have loaded; StackError for no stack."""
    lock = read_lock(stack)
    return Loaded(tuple(entry.hash for entry in lock.patch if entry.enabled), lock.combine)

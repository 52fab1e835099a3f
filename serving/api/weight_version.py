"""The version of a server's weights: one name for each sum of patches.

`moe-patch live version` computes it from a stack's lock file before any server has these weights, so that a
fleet can wait for it. The version does not depend on how patches were added: two patches that were loaded
with `add` give the same version as two that were added live. A joint solution is another sum.
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
    """The patches that were added at loading, the lowest first, and how they were combined."""

    hashes: tuple[str, ...] = ()
    combine: Combine = "add"

    def terms(self) -> list[JsonValue]:
        """The terms of the sum: single patches, or one joint solution of several."""
        hashes: list[JsonValue] = list(self.hashes)
        return [{"solve": hashes}] if self.combine == "solve" and len(hashes) > 1 else hashes


def weight_version(loaded: Loaded, live: Sequence[str]) -> str:
    """The version of a base with loaded patches and live ones; `live` has hashes, the lowest first."""
    terms = [*loaded.terms(), *live]
    if not terms:
        return BARE
    return f"sha256:{hashlib.sha256(strict_json.canonical_json(terms).encode()).hexdigest()}"


def loaded_from(stack: Path) -> Loaded:
    """The patches that a server will have loaded if it is started with the stack at `stack`.

    Raises:
        StackError: there is no valid stack.
    """
    lock = read_lock(stack)
    return Loaded(tuple(entry.hash for entry in lock.patch if entry.enabled), lock.combine)

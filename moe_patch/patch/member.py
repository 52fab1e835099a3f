"""Patches in an order: what each is called there, and which of them somebody means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from moe_patch.errors import UnclearPatch

SHORTEST_PREFIX = 8  # hexadecimal digits of a hash that name a patch


class Identified(Protocol):
    """A patch, or what stands for one: an entry of a lock file, a file that is read later."""

    @property
    def hash(self) -> str:
        """The content hash of the patch, "sha256:..."."""


Held = TypeVar("Held", bound=Identified)


@dataclass(frozen=True)  # without slots: with them, Python 3.11 cannot call Member[Patch]
class Member(Generic[Held]):
    """A patch in an ordered list of patches: what it is called there, and the patch or what stands for it."""

    name: str
    patch: Held
    number: int = 0  # from 1, in the lock file that lists it; 0 where none does

    @property
    def hash(self) -> str:
        """The content hash of the patch."""
        return self.patch.hash


def find_member(members: Sequence[Member[Held]], identifier: str) -> Member[Held]:
    """The patch of this name or of this hash, of which the first eight digits do, with or without `sha256:`.

    Raises:
        UnclearPatch: no patch is meant, or several; it holds the hashes of those.
    """
    digits = identifier.removeprefix("sha256:")
    prefix = f"sha256:{digits}" if len(digits) >= SHORTEST_PREFIX else None
    meant = [
        member
        for member in members
        if member.name == identifier or (prefix is not None and member.hash.startswith(prefix))
    ]
    if len(meant) == 1:
        return meant[0]
    hashes = tuple(member.hash for member in meant)
    if hashes:
        raise UnclearPatch(f"{identifier} could be any of {', '.join(hashes)}: give more of the hash", hashes)
    names = ", ".join(member.name for member in members) or "none"
    raise UnclearPatch(f"no patch is called {identifier}; there are: {names}", hashes)

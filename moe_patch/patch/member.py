"""Ordered lists of patches: the name of each patch in the list, and how to find one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from moe_patch.errors import UnclearPatch
from moe_patch.io.wording import did_you_mean

SHORTEST_PREFIX = 8  # hexadecimal digits of a hash that are enough to name a patch


class Identified(Protocol):
    """A patch, or a stand-in for one: an entry of a lock file, or a file that is read later."""

    @property
    def hash(self) -> str:
        """The content hash of the patch, "sha256:..."."""


Held = TypeVar("Held", bound=Identified)


@dataclass(frozen=True)  # without slots: with them, Python 3.11 cannot call Member[Patch]
class Member(Generic[Held]):
    """A patch, or a stand-in for one, in an ordered list of patches."""

    name: str  # in this list
    patch: Held
    number: int = 0  # in its lock file, from 1; 0 if it is in no lock file

    @property
    def hash(self) -> str:
        """The content hash of the patch."""
        return self.patch.hash


def find_member(members: Sequence[Member[Held]], identifier: str) -> Member[Held]:
    """Find a patch by its name or its hash.

    The first eight digits of a hash are enough, with or without `sha256:`.

    Raises:
        UnclearPatch: no patch matches, or several do; the error holds their hashes.
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
    names = [member.name for member in members]
    known = f"{', '.join(names) or 'none'}{did_you_mean(identifier, names)}"
    raise UnclearPatch(f"no patch is called {identifier}; there are: {known}", hashes)

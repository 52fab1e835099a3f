"""The patches on a running server, and how a client names one of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from pydantic import JsonValue

from moe_patch.errors import HashMismatch
from moe_patch.patch import Patch, load
from moe_patch_serving.api.allowed import HUB
from moe_patch_serving.errors import Conflict, NoSuchPatch

_SHORTEST_PREFIX = 8


@dataclass(frozen=True, slots=True)
class Member:
    """A patch that was put on a running server, and the file that its workers read."""

    hash: str
    name: str
    path: str
    method: str
    facts: int

    @classmethod
    def of(cls, patch: Patch, path: Path, reference: str) -> Member:
        """The member that a patch file becomes, called as the repository or the file that it is from."""
        whole = PurePosixPath(reference.partition("@")[0]) if reference.startswith(HUB) else path
        name = whole.name.removesuffix(".safetensors")
        return cls(patch.hash, name, str(path), patch.method, len(patch.facts))

    def load(self) -> Patch:
        """The patch, read again; HashMismatch where the file now holds another one."""
        patch = load(self.path)
        if patch.hash != self.hash:
            raise HashMismatch(f"{self.path}: is the patch {patch.hash}, and was {self.hash}")
        return patch

    def to_json(self) -> dict[str, JsonValue]:
        """What clients are told."""
        return asdict(self)


Members = tuple[Member, ...]
"""A state of a running server, the lowest patch first."""


def member_hashes(members: Iterable[Member]) -> tuple[str, ...]:
    """The hashes of patches, in order."""
    return tuple(member.hash for member in members)


def find_member(members: Sequence[Member], identifier: str) -> Member:
    """The member that a client means, by its hash, the beginning of its hash, or its name.

    Raises:
        NoSuchPatch: none is meant.
        Conflict: more than one could be.
    """
    digits = identifier.removeprefix("sha256:")
    by_hash = f"sha256:{digits}" if len(digits) >= _SHORTEST_PREFIX else "none begins so"
    meant = [member for member in members if member.hash.startswith(by_hash) or member.name == identifier]
    if not meant:
        names = ", ".join(member.name for member in members) or "none"
        raise NoSuchPatch(f"no patch that is on is called {identifier}; on are: {names}")
    if len(meant) > 1:
        raise Conflict(
            f"{identifier} could be any of {', '.join(member_hashes(meant))}: give more of the hash"
        )
    return meant[0]

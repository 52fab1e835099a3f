"""The patches on a running server, and how clients name them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath

from pydantic import JsonValue

from moe_patch.errors import UnclearPatch
from moe_patch.patch import Patch, load
from moe_patch.patch.member import Member, find_member
from moe_patch_serving.api.allowed import HUB
from moe_patch_serving.errors import Conflict, NoSuchPatch


@dataclass(frozen=True, slots=True)
class SaidFact:
    """A fact of a patch, as clients are told of it."""

    id: str
    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class PatchFile:
    """A patch on a running server, without its tensors."""

    hash: str
    path: str  # of the file that it was added from
    stored: str  # the path of the server's own copy
    method: str
    facts: tuple[SaidFact, ...] = field(repr=False)
    kind: str = "delta"
    allow_large: bool = False  # whether its changes may be much larger than the experts

    def load(self) -> Patch:
        """Read the patch again.

        Raises:
            MoePatchError: the server's copy cannot be read.
        """
        return load(self.stored)


ServedMember = Member[PatchFile]
Members = tuple[ServedMember, ...]
"""Patches of a running server, the lowest first."""


def served_member(
    patch: Patch, path: Path, reference: str, stored: Path, *, allow_large: bool = False
) -> ServedMember:
    """The member for a patch file and its copy, with the name of its Hub repository or of its file."""
    whole = PurePosixPath(reference.partition("@")[0]) if reference.startswith(HUB) else path
    facts = tuple(SaidFact(fact.id, fact.text, fact.target_new) for fact in patch.facts)
    file = PatchFile(patch.hash, str(path), str(stored), patch.method, facts, patch.kind, allow_large)
    return Member(whole.name.removesuffix(".safetensors"), file)


def member_json(member: ServedMember, *, facts: bool = False) -> dict[str, JsonValue]:
    """The JSON description of a patch for clients, with each of its facts if they are asked for."""
    file = member.patch
    found: dict[str, JsonValue] = {
        "hash": file.hash,
        "name": member.name,
        "path": file.path,
        "method": file.method,
        "kind": file.kind,
        "facts": len(file.facts),
    }
    return found | {"said": [asdict(fact) for fact in file.facts]} if facts else found


def member_hashes(members: Iterable[ServedMember]) -> tuple[str, ...]:
    """The hashes of patches, in order."""
    return tuple(member.hash for member in members)


def find_served_member(members: Sequence[ServedMember], identifier: str) -> ServedMember:
    """Find the member that a client names, as `find_member` does.

    Raises:
        NoSuchPatch: no patch matches.
        Conflict: several patches match.
    """
    try:
        return find_member(members, identifier)
    except UnclearPatch as error:
        if error.meant:
            raise Conflict(str(error)) from error
        names = ", ".join(member.name for member in members) or "none"
        raise NoSuchPatch(f"no patch that is on is called {identifier}; on are: {names}") from error

"""The patches of a running server at one time: those left of what was loaded, and live ones on top."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from moe_patch.stack import Combine
from moe_patch_serving.api.members import Members, member_hashes
from moe_patch_serving.api.weight_version import Loaded, weight_version


@dataclass(frozen=True, slots=True)
class Ground:
    """What lies beneath live patches: patches that were loaded at start, as far as they are still on.

    Loaded patches were combined to one delta. If only some of them are left, another delta takes its place,
    which workers read from `stored`. If all or none are left, they need no file.
    """

    members: Members = ()
    combine: Combine = "add"
    stored: str | None = None  # the path of the delta of what is left
    delta: str | None = None  # its content hash

    @property
    def loaded(self) -> Loaded:
        """The hashes of the patches that are left, and how they are combined."""
        return Loaded(member_hashes(self.members), self.combine)


@dataclass(frozen=True, slots=True)
class Standing:
    """All patches of a running server."""

    ground: Ground = Ground()
    live: Members = ()

    @property
    def members(self) -> Members:
        """All patches, the lowest first."""
        return (*self.ground.members, *self.live)

    @property
    def version(self) -> str:
        """The version of the weights."""
        return weight_version(self.ground.loaded, member_hashes(self.live))

    def needs(self) -> Iterable[str]:
        """The hashes of the files that a server needs to have this state again."""
        return (*member_hashes(self.members), *([self.ground.delta] if self.ground.delta else []))

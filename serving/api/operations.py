"""The operations for clients of a running server: add, remove and reorder patches, and roll back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field

from pydantic import JsonValue

from moe_patch.errors import MoePatchError
from moe_patch.patch import Patch, load
from moe_patch_serving.api.allowed import Allowed
from moe_patch_serving.api.coordinator import CompletedChange, Coordinator, Plan
from moe_patch_serving.api.members import (
    Members,
    ServedMember,
    find_served_member,
    member_hashes,
    member_json,
    served_member,
)
from moe_patch_serving.api.proof import Proof, proof_for
from moe_patch_serving.api.self_test import SelfTest
from moe_patch_serving.errors import Conflict, LiveError, NoSuchPatch, PatchRefused
from moe_patch_serving.store import PatchStore

_HISTORY = 100  # greatest number of states to go back to


@dataclass(slots=True)
class Operations:
    """The patches of a running server, as its clients see and change them.

    Raises:
        Busy: another operation is in progress.
        PatchRefused: moe_patch refuses the patch.
        LiveError: any error of `Coordinator.make`.
    """

    coordinator: Coordinator
    allowed: Allowed
    store: PatchStore
    max_fall: float
    history: list[Members] = field(default_factory=list)
    stored: set[str] = field(default_factory=set)  # hashes of the patches in the store

    def report(self) -> dict[str, JsonValue]:
        """The server's patches, the lowest first. Loaded patches are below live ones."""
        live, loaded = self.coordinator.members, self.coordinator.loaded
        return {
            "version": self.coordinator.version,
            "loaded": {"combine": loaded.combine, "patches": list(loaded.hashes)},
            "patches": [member_json(member) for member in live],
            "agree": self.coordinator.agree,
            "base": asdict(self.coordinator.base),
            "changes_to_roll_back": len(self.history),
            "sampling": self.coordinator.engine.sampling,
        }

    async def add(
        self, reference: str, position: int | None, test: SelfTest, *, allow_large: bool = False
    ) -> CompletedChange:
        """Add a patch, given by a path or a Hub reference, on top or at `position`, counted from 1.

        With `allow_large`, its changes may be much larger than the experts.

        Raises:
            PlaceNotAllowed: the reference is outside of the allowed places.
            NoSuchPatch: there is no such file.
            Conflict: the patch is on the server already, or there is no such position.
        """
        async with self._alone("add"):
            path = await asyncio.to_thread(self.allowed.find, reference)
            patch = await asyncio.to_thread(load, path)
            proof = self._proof([patch], test)
            stored = await asyncio.to_thread(self.store.put, patch)
            self.stored.add(patch.hash)
            member = served_member(patch, path, reference, stored, allow_large=allow_large)
            wanted = self._with(member, position)
            return await self._make(Plan("add", wanted, proof))

    async def remove(self, identifier: str) -> CompletedChange:
        """Remove a patch, given by its name, its hash, or the beginning of its hash.

        Raises:
            NoSuchPatch: no patch matches.
            Conflict: several patches match, or the patch was added at loading.
        """
        async with self._alone("remove"):
            gone = self._find(identifier)
            wanted = tuple(member for member in self.coordinator.members if member is not gone)
            return await self._make(Plan("remove", wanted))

    async def reorder(self, identifiers: Sequence[str]) -> CompletedChange:
        """Put all live patches into another order, the lowest first.

        Raises:
            Conflict: `patches` does not name each live patch once.
        """
        async with self._alone("reorder"):
            wanted = tuple(self._find(identifier) for identifier in identifiers)
            members = self.coordinator.members
            if len(wanted) != len(members) or set(wanted) != set(members):
                raise Conflict(f"to reorder, name each of the {len(members)} patches that are on once")
            return await self._make(Plan("reorder", wanted))

    async def rollback(self, test: SelfTest) -> CompletedChange:
        """Undo the last change that is not undone yet.

        Raises:
            Conflict: there is no such change.
        """
        async with self._alone("rollback"):
            if not self.history:
                raise Conflict("there is no change to roll back")
            wanted, members = self.history[-1], self.coordinator.members
            gone = [member for member in wanted if member not in members]
            back = [await asyncio.to_thread(member.patch.load) for member in gone]
            change = await self.coordinator.make(Plan("rollback", wanted, self._proof(back, test)))
            self.history.pop()
            return change

    def _with(self, member: ServedMember, position: int | None) -> Members:
        """The live patches with one more."""
        members = self.coordinator.members
        if member.hash in (*member_hashes(members), *self.coordinator.loaded.hashes):
            raise Conflict(f"the patch {member.hash} is on already")
        place = len(members) + 1 if position is None else position
        if not 1 <= place <= len(members) + 1:
            raise Conflict(f"there is room at positions 1 to {len(members) + 1}, not at {place}")
        return (*members[: place - 1], member, *members[place - 1 :])

    def _find(self, identifier: str) -> ServedMember:
        try:
            return find_served_member(self.coordinator.members, identifier)
        except NoSuchPatch:
            if identifier in self.coordinator.loaded.hashes:
                raise Conflict(
                    f"{identifier} was loaded with the weights: start the server without it to take it off"
                ) from None
            raise

    def _proof(self, patches: Sequence[Patch], test: SelfTest) -> Proof:
        return proof_for(self.coordinator.engine, patches, test, self.max_fall)

    async def _make(self, plan: Plan) -> CompletedChange:
        before = self.coordinator.members
        change = await self.coordinator.make(plan)
        self.history = [*self.history, before][-_HISTORY:]
        return change

    @asynccontextmanager
    async def _alone(self, operation: str) -> AsyncIterator[None]:
        """Attempt a change while no other is made."""
        with self._attempt(operation):
            async with self.coordinator.alone():
                try:
                    yield
                finally:
                    self._tidy()

    def _tidy(self) -> None:
        """Remove the copies of patches that are not on, and that no rollback puts on again."""
        states = [self.coordinator.members, *self.history]
        for digest in self.stored - {member.hash for state in states for member in state}:
            self.store.discard(digest)
            self.stored.discard(digest)

    @contextmanager
    def _attempt(self, operation: str) -> Iterator[None]:
        """Count the outcome of a change, and turn errors of moe_patch into errors for clients."""
        outcome = "failed"
        try:
            yield
            outcome = "done"
        except LiveError as error:
            outcome = error.code
            raise
        except MoePatchError as error:
            outcome = PatchRefused.code
            raise PatchRefused(str(error), {"reason": type(error).__name__}) from error
        finally:
            self.coordinator.metrics.changed(operation, outcome)

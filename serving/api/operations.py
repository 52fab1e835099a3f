"""The operations for clients of a running server: add, remove and reorder patches, and roll back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field, replace

from pydantic import JsonValue

from moe_patch.errors import MoePatchError
from moe_patch.patch import Patch, load
from moe_patch_serving.api.allowed import Allowed
from moe_patch_serving.api.audit import note
from moe_patch_serving.api.coordinator import CompletedChange, Coordinator, Plan
from moe_patch_serving.api.ground import ground_without
from moe_patch_serving.api.harmony import check_harmony
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
from moe_patch_serving.api.standing import Standing
from moe_patch_serving.errors import Conflict, LiveError, PatchRefused
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
    history: list[Standing] = field(default_factory=list)
    stored: set[str] = field(default_factory=set)  # hashes of the patches in the store

    def report(self, *, facts: bool = False) -> dict[str, JsonValue]:
        """The server's patches, the lowest first. Loaded patches are below live ones.

        Args:
            facts: whether to name each of their facts.
        """
        standing = self.coordinator.standing
        ground = standing.ground
        return {
            "version": standing.version,
            "loaded": {
                "combine": ground.combine,
                "patches": list(member_hashes(ground.members)),
                "members": [member_json(member, facts=facts) for member in ground.members],
            },
            "patches": [member_json(member, facts=facts) for member in standing.live],
            "agree": self.coordinator.agree,
            "base": asdict(self.coordinator.base),
            "changes_to_roll_back": len(self.history),
            "sampling": self.coordinator.engine.sampling,
        }

    async def add(
        self,
        reference: str,
        position: int | None,
        test: SelfTest,
        *,
        allow_large: bool = False,
        allow_conflicts: bool = False,
    ) -> CompletedChange:
        """Add a patch, given by a path or a Hub reference, on top or at `position`, counted from 1.

        With `allow_large`, its changes may be much larger than the experts. With `allow_conflicts`, its facts
        may contradict those that are on, or move them.

        Raises:
            PlaceNotAllowed: the reference is outside of the allowed places.
            NoSuchPatch: there is no such file.
            Conflict: the patch is on the server already, or there is no such position.
            FactsConflict: its facts do not go together with those that are on.
        """
        async with self._alone("add"):
            path = await asyncio.to_thread(self.allowed.find, reference)
            patch = await asyncio.to_thread(load, path)
            note(hash=patch.hash)
            proof = self._proof([patch], test)
            stored = await asyncio.to_thread(self.store.put, patch)
            self.stored.add(patch.hash)
            member = served_member(patch, path, reference, stored, allow_large=allow_large)
            note(patch=member.name)
            standing = self.coordinator.standing
            wanted = replace(standing, live=_with(standing, member, position))
            found = await asyncio.to_thread(
                check_harmony, standing, member, patch, allow_conflicts=allow_conflicts
            )
            return replace(await self._make(Plan("add", wanted, proof)), conflicts=found)

    async def remove(self, identifier: str) -> CompletedChange:
        """Remove a patch, given by its name, its hash, or the beginning of its hash.

        Raises:
            NoSuchPatch: no patch matches.
            Conflict: several patches match, or the patch is a bypass.
        """
        async with self._alone("remove"):
            standing = self.coordinator.standing
            gone = find_served_member(standing.members, identifier)
            note(patch=gone.name, hash=gone.hash)
            if gone in standing.live:
                wanted = replace(standing, live=tuple(one for one in standing.live if one is not gone))
            else:
                ground = await asyncio.to_thread(ground_without, standing.ground, gone, self.store)
                self.stored |= {ground.delta} if ground.delta else set()
                wanted = replace(standing, ground=ground)
            return await self._make(Plan("remove", wanted))

    async def reorder(self, identifiers: Sequence[str]) -> CompletedChange:
        """Put all live patches into another order, the lowest first.

        Raises:
            Conflict: `patches` does not name each live patch once.
        """
        async with self._alone("reorder"):
            standing = self.coordinator.standing
            live = tuple(find_served_member(standing.members, identifier) for identifier in identifiers)
            if len(live) != len(standing.live) or set(live) != set(standing.live):
                raise Conflict(f"to reorder, name each of the {len(standing.live)} live patches once")
            return await self._make(Plan("reorder", replace(standing, live=live)))

    async def rollback(self, test: SelfTest) -> CompletedChange:
        """Undo the last change that is not undone yet.

        Raises:
            Conflict: there is no such change.
        """
        async with self._alone("rollback"):
            if not self.history:
                raise Conflict("there is no change to roll back")
            wanted, members = self.history[-1], self.coordinator.standing.members
            gone = [member for member in wanted.members if member not in members]
            back = [await asyncio.to_thread(member.patch.load) for member in gone]
            note(patch=", ".join(one.name for one in gone), hash=", ".join(one.hash for one in gone))
            change = await self.coordinator.make(Plan("rollback", wanted, self._proof(back, test)))
            self.history.pop()
            return change

    def _proof(self, patches: Sequence[Patch], test: SelfTest) -> Proof:
        return proof_for(self.coordinator.engine, patches, test, self.max_fall)

    async def _make(self, plan: Plan) -> CompletedChange:
        before = self.coordinator.standing
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
        states = [self.coordinator.standing, *self.history]
        for digest in self.stored - {digest for state in states for digest in state.needs()}:
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


def _with(standing: Standing, member: ServedMember, position: int | None) -> Members:
    """The live patches with one more."""
    live = standing.live
    if member.hash in member_hashes(standing.members):
        raise Conflict(f"the patch {member.hash} is on already")
    place = len(live) + 1 if position is None else position
    if not 1 <= place <= len(live) + 1:
        raise Conflict(f"there is room at positions 1 to {len(live) + 1}, not at {place}")
    return (*live[: place - 1], member, *live[place - 1 :])

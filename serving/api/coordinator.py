"""Changes a running server's patches, one change at a time. A change is made completely or not at all.

A change has these steps: hold clients' requests back, let all workers make the change, clear the prefix
cache, give the weights their new version, ask the server the added facts, and let the requests in. If a
worker fails, or the server does not say the facts, all workers go back to the state before, and the patch has
answered no client. The digests of the workers' weights must confirm this. If even that fails, requests are
refused from then on, so that half a patch is never served.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TypeVar

from pydantic import JsonValue

from moe_patch.stack.check import Finding
from moe_patch_serving.api.engine import BaseState, Engine, WorkerState
from moe_patch_serving.api.members import Members, ServedMember, member_hashes
from moe_patch_serving.api.metrics import Metrics
from moe_patch_serving.api.proof import NO_PROOF, Findings, Proof
from moe_patch_serving.api.settings import Patience
from moe_patch_serving.api.standing import Ground, Standing
from moe_patch_serving.errors import Busy, SelfTestFailed, WorkersDisagree

T = TypeVar("T")

logger = logging.getLogger("vllm.moe_patch")  # below vLLM's own, and so with its handlers

_VIEWS = ("unasked", "touched", "checked", "checking", "differs")  # of the base, as `ServedBase` has them
_UNSETTLED = ("touched", "checking")


@dataclass(frozen=True, slots=True)
class Plan:
    """A change to make: the state to reach, and what the server has to show then."""

    operation: str
    wanted: Standing
    proof: Proof = NO_PROOF


@dataclass(frozen=True, slots=True)
class CompletedChange:
    """A change that was made, with the seconds of its phases and what the server showed."""

    operation: str
    version: str
    seconds: dict[str, float] = field(default_factory=dict)
    found: Findings = field(default_factory=Findings)
    conflicts: tuple[Finding, ...] = ()  # how the facts of an added patch go with those that were on

    def to_json(self) -> dict[str, JsonValue]:
        """The JSON description of the change for clients."""
        rounded: dict[str, JsonValue] = {phase: round(value, 4) for phase, value in self.seconds.items()}
        return {
            "operation": self.operation,
            "version": self.version,
            "seconds": rounded,
            "self_test": self.found.to_json(),
            "conflicts": [{"level": one.level, "text": one.text} for one in self.conflicts],
        }


class Coordinator:
    """Knows the patches of a running server. No other object changes them."""

    def __init__(self, engine: Engine, ground: Ground, metrics: Metrics, patience: Patience) -> None:
        """Begin with the patches that were loaded at start. Call `start` before any other method."""
        self.engine = engine
        self.standing = Standing(ground)
        self.base = BaseState("unasked")
        self.agree = True  # all workers hold the same, known weights
        self.metrics, self._patience = metrics, patience
        # digests of all workers, by the hashes of what is left of the ground and of live patches
        self._weights: dict[tuple[tuple[str, ...], ...], tuple[str, ...]] = {}
        self._changing = asyncio.Lock()

    @property
    def version(self) -> str:
        """The version of the weights."""
        return self.standing.version

    async def start(self) -> None:
        """Check that all workers hold the loaded patches, and name the weights.

        Raises:
            WorkersDisagree: a worker holds other patches.
        """
        states = await self.engine.call("moe_patch_state")
        loaded = self.standing.ground.loaded.hashes
        if any(state.loaded != loaded or state.patches for state in states):
            raise WorkersDisagree(
                "the workers did not start with the patches that the server was started with"
            )
        await self.engine.name_weights(self.version)
        self._note(states)
        if any(self.engine.sampling.values()):
            logger.warning("not all requests are answered greedily: %s", self.engine.sampling)

    def alone(self) -> asyncio.Lock:
        """The lock to hold while a change is planned and made.

        Raises:
            Busy: another change is in progress.
            WorkersDisagree: an earlier change could not be undone.
        """
        if self._changing.locked():
            raise Busy("another change is under way: try again when it is done")
        if not self.agree:
            raise WorkersDisagree("an earlier change left the workers different: start the server again")
        return self._changing

    async def make(self, plan: Plan) -> CompletedChange:
        """Make a change, and let the server prove itself before any client. The caller holds `alone`.

        After any error but WorkersDisagree the state is as before.

        Raises:
            NotDrained: running requests did not end in time.
            MoePatchError: a worker could not make the change; the error has the class that it had there.
            SelfTestFailed: the server did not say enough of the facts, or what should stay moved too far.
            WorkersDisagree: the change failed and could not be undone.
        """
        seconds: dict[str, float] = {}
        stood = await self._in_time(plan.proof.before(self.engine))  # while clients are answered
        try:
            async with self._alone_with_engine(seconds):
                before = self.standing
                with _timed(seconds, "apply"):
                    await self._reach(plan.wanted)
                with _timed(seconds, "self_test"):
                    found = await self._prove(plan, before, stood)
        finally:
            self.metrics.took(plan.operation, seconds)
        logger.info("%s: the weights are now %s", plan.operation, self.version)
        return CompletedChange(plan.operation, self.version, seconds, found)

    @asynccontextmanager
    async def _alone_with_engine(self, seconds: dict[str, float]) -> AsyncIterator[None]:
        """Let clients' requests wait until the end of the block."""
        with _timed(seconds, "pause"):
            with _timed(seconds, "drain"):
                await self.engine.hold_back(self._patience.drain)
            try:
                yield
            finally:
                if self.agree:  # if not, they are refused
                    self.engine.let_in()

    async def _prove(self, plan: Plan, before: Standing, stood: Sequence[Sequence[float]]) -> Findings:
        """What the changed server shows. If that is no proof, undo the change and raise.

        Args:
            plan: of the change that was made.
            before: the state to go back to.
            stood: how likely the controls' answers were then.
        """
        try:
            found = await self._in_time(plan.proof.after(self.engine, stood))
            complaint, details = plan.proof.complaint(found), found.to_json()
        except SelfTestFailed as error:
            complaint, details = str(error), {}
        except BaseException:
            await self._take_back(before)
            raise
        else:
            right = sum(answer.right for answer in found.answers)
            self.metrics.answered(right, len(found.answers) - right)
            if not complaint:
                return found
        await self._take_back(before)
        raise SelfTestFailed(
            f"{complaint}: the {plan.operation} was taken back, and the weights are again {self.version}",
            details | {"version": self.version},
        )

    async def _in_time(self, showing: Coroutine[Any, Any, T]) -> T:
        """Wait for the answers to a self-test.

        Raises:
            SelfTestFailed: they did not come in time.
        """
        limit = self._patience.self_test
        try:
            return await asyncio.wait_for(showing, limit)
        except TimeoutError:
            raise SelfTestFailed(f"the server did not answer a self-test within {limit:g} s") from None

    async def _take_back(self, before: Standing) -> None:
        """Go back to a state after a completed change; raises WorkersDisagree if that fails."""
        try:
            await self._reach(before)
        except Exception as error:
            self._give_up()
            raise WorkersDisagree(f"the change could not be taken back: {error}") from error

    async def _reach(self, wanted: Standing) -> None:
        """Bring all workers to a state and name it, in an engine that has no requests of clients."""
        before = self.standing
        await self.engine.pause()
        try:
            states = await self._walk(before, wanted)
            self._confirm(states, wanted)
            await self.engine.name_weights(wanted.version)
        except BaseException:
            await self._restore(before, wanted)
            raise
        self.standing = wanted
        await self.engine.resume()
        self._note(states)

    async def _walk(self, before: Standing, wanted: Standing) -> list[WorkerState]:
        """Call the workers' methods that lead from one state to another. Returns their final states."""
        present, aim = list(member_hashes(before.live)), list(member_hashes(wanted.live))
        states: list[WorkerState] | None = None
        if before.ground != wanted.ground:
            states = await self.engine.call("moe_patch_ground", *_ground(wanted))
        for gone in [digest for digest in present if digest not in aim]:
            states = await self.engine.call("moe_patch_remove", gone)
            present.remove(gone)
        for position, member in enumerate(wanted.live):
            if member.hash not in present:
                place = min(position, len(present))
                states = await self.engine.call("moe_patch_add", *_addition(member, place + 1))
                present.insert(place, member.hash)
        if present != aim:
            states = await self.engine.call("moe_patch_reorder", aim)
        return states if states is not None else await self.engine.call("moe_patch_state")

    async def _restore(self, before: Standing, wanted: Standing) -> None:
        """Bring workers in different states back to `before`, and resume.

        Each call applies to some workers only; the others answer with an error. Only their state afterwards
        matters.
        """
        try:
            if before.ground != wanted.ground:
                await self.engine.try_call("moe_patch_ground", *_ground(before))
            for digest in _without(wanted.live, before.live):
                await self.engine.try_call("moe_patch_remove", digest)
            for position, member in enumerate(before.live, start=1):
                await self.engine.try_call("moe_patch_add", *_addition(member, position))
            await self.engine.try_call("moe_patch_reorder", list(member_hashes(before.live)))
            states = await self.engine.call("moe_patch_state")
            self._confirm(states, before)
            await self.engine.name_weights(self.version)
        except Exception as error:
            self._give_up()
            raise WorkersDisagree(f"a failed change could not be taken back: {error}") from error
        await self.engine.resume()

    def _confirm(self, states: Sequence[WorkerState], wanted: Standing) -> None:
        """Raise WorkersDisagree unless all workers are in this state, with the weights it had earlier."""
        on = member_hashes(wanted.ground.members), member_hashes(wanted.live)
        if any((state.loaded, state.patches) != on for state in states):
            raise WorkersDisagree("workers have other patches on than they were told to")
        found = tuple(state.weights for state in states)
        if self._weights.setdefault(on, found) != found:
            raise WorkersDisagree(f"the weights are not those that {wanted.version} had before")

    async def look(self) -> None:
        """Ask the workers how far they are, if they are still hashing the base."""
        if self.base.state in _UNSETTLED:
            self._note(await self.engine.call("moe_patch_state"))

    def _note(self, states: Sequence[WorkerState]) -> None:
        self.base = max((state.base for state in states), key=_weight, default=self.base)
        self.metrics.stands(
            loaded=len(self.standing.ground.members),
            live=len(self.standing.live),
            kept_bytes=sum(state.bytes_kept for state in states),
            agree=self.agree,
        )

    def _give_up(self) -> None:
        reason = "workers hold different weights: no request is answered until the server is started again"
        self.agree = False
        self._note([])
        self.engine.refuse(reason)
        logger.critical(reason)


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    """Add the seconds that the block takes."""
    started = perf_counter()
    try:
        yield
    finally:
        seconds[phase] = perf_counter() - started


def _weight(base: BaseState) -> int:
    """Which worker's view of the base counts: a difference before all, then that of the one that hashes."""
    return _VIEWS.index(base.state)


def _ground(standing: Standing) -> tuple[Any, ...]:
    """The arguments with which workers change what lies beneath live patches."""
    ground = standing.ground
    return list(member_hashes(ground.members)), ground.stored, ground.delta


def _addition(member: ServedMember, position: int) -> tuple[Any, ...]:
    """The arguments with which workers add a patch."""
    return member.patch.stored, member.hash, position, member.patch.allow_large


def _without(members: Members, others: Members) -> Iterable[str]:
    return [member.hash for member in members if member not in others]

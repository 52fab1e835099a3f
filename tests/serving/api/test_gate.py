"""Who waits at the gate, who passes, and that nobody is forgotten there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from moe_patch_serving.api.gate import Gate
from moe_patch_serving.errors import WorkersDisagree


class Client:
    """A stand-in for vLLM's client, whose requests end when they are told to."""

    def __init__(self) -> None:
        self.ending, self.aborted = asyncio.Event(), 0

    async def generate(self, prompt: str) -> AsyncGenerator[str, None]:
        try:
            yield f"{prompt} begins"
            await self.ending.wait()
            yield f"{prompt} ends"
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted += 1
            raise

    encode = generate


async def heard(outputs: AsyncGenerator[str, None]) -> list[str]:
    return [output async for output in outputs]


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_requests_wait_until_it_opens_and_the_way_past_it_stays_free() -> None:
    async def story() -> None:
        client: Any = Client()
        gate = Gate(client)
        client.ending.set()
        assert await heard(client.encode("a")) == ["a begins", "a ends"]
        await gate.close(1)
        waiting = [asyncio.create_task(heard(client.generate(name))) for name in "bc"]
        await settled()
        assert await heard(gate.generate("d")) == ["d begins", "d ends"]
        waiting[1].cancel()
        await settled()
        assert not waiting[0].done()
        gate.open()
        assert await waiting[0] == ["b begins", "b ends"]
        await gate.close(0.001)  # nothing is left of the request that was given up

    asyncio.run(story())


def test_it_waits_for_those_inside_and_opens_again_if_they_stay() -> None:
    async def story() -> None:
        client: Any = Client()
        gate = Gate(client)
        inside = asyncio.create_task(heard(client.generate("a")))
        await settled()
        with pytest.raises(TimeoutError):
            await gate.close(0.01)
        other = asyncio.create_task(heard(client.generate("b")))
        await settled()
        closing = asyncio.create_task(gate.close(10))
        await settled()
        assert not closing.done()
        other.cancel()
        client.ending.set()
        await closing
        assert await inside == ["a begins", "a ends"]
        assert client.aborted == 1  # that of the client who went away

    asyncio.run(story())


def test_who_waits_is_told_when_there_will_be_no_answers() -> None:
    async def story() -> None:
        client: Any = Client()
        gate = Gate(client)
        await gate.close(1)
        waiting = asyncio.create_task(heard(client.generate("a")))
        await settled()
        gate.refuse("the weights are unknown")
        with pytest.raises(WorkersDisagree, match="the weights are unknown"):
            await waiting
        with pytest.raises(WorkersDisagree):
            await heard(client.encode("b"))

    asyncio.run(story())


def test_a_gate_that_closes_again_at_once_lets_nobody_slip_through() -> None:
    async def story() -> None:
        client: Any = Client()
        gate = Gate(client)
        client.ending.set()
        await gate.close(1)
        waiting = asyncio.create_task(heard(client.generate("a")))
        await settled()
        gate.open()
        await gate.close(1)  # before the request that waited could run
        await settled()
        assert not waiting.done()
        gate.open()
        assert await waiting

    asyncio.run(story())

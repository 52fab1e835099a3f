"""The gate in front of an engine: clients' requests wait here while a change is made and proves itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import wraps
from typing import TYPE_CHECKING, Any

from moe_patch_serving.errors import WorkersDisagree

if TYPE_CHECKING:
    from vllm.engine.protocol import EngineClient

Ask = Callable[..., AsyncGenerator[Any, None]]
"""A method of the engine's client that runs one request: an async generator of its outputs."""


class Gate:
    """Lets requests into an engine, or holds them back, and knows how many are inside.

    vLLM's own pause holds back every request alike, a self-test's too. So the gate stands before it: it
    replaces `generate` and `encode` of the client that all of vLLM's routes share, and `generate` here is the
    way past it. A request that is given up while it waits leaves nothing behind.
    """

    def __init__(self, client: EngineClient) -> None:
        """Put an open gate in front of a client."""
        self._open, self._empty = asyncio.Event(), asyncio.Event()
        self._open.set()
        self._empty.set()
        self._inside = 0
        self._refusal: str | None = None
        self.entered: Callable[[], None] = lambda: None  # called when a client's request gets in
        self.generate: Ask = client.generate
        shared: Any = client
        shared.generate, shared.encode = self._behind(client.generate), self._behind(client.encode)

    async def close(self, seconds: float) -> None:
        """Hold back new requests, and wait for those inside. If they take too long, open again.

        Raises:
            TimeoutError: requests did not end within `seconds`.
        """
        self._open.clear()
        try:
            await asyncio.wait_for(self._empty.wait(), seconds)
        except BaseException:
            self.open()
            raise

    def open(self) -> None:
        """Let all requests in, also those that wait."""
        self._open.set()

    def refuse(self, reason: str) -> None:
        """Answer all requests with an error from now on, also those that wait."""
        self._refusal = reason
        self._open.set()

    def _behind(self, ask: Ask) -> Ask:
        @wraps(ask)
        async def gated(*arguments: Any, **named: Any) -> AsyncGenerator[Any, None]:
            while not self._open.is_set():  # it may close again before a request that waited runs on
                await self._open.wait()
            if self._refusal is not None:
                raise WorkersDisagree(self._refusal)
            self._inside += 1
            self._empty.clear()
            try:
                self.entered()
                async with aclosing(ask(*arguments, **named)) as outputs:
                    async for output in outputs:
                        yield output
            finally:
                self._inside -= 1
                if not self._inside:
                    self._empty.set()

        return gated

"""Connections whose requests have to arrive in time: uvicorn waits for ever for the rest of one."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http.auto import AutoHTTPProtocol

logger = logging.getLogger("vllm.moe_patch")


class Timed(asyncio.Protocol):
    """Mixed into uvicorn's protocol, ends connections whose requests are not complete within `seconds`.

    The time runs from the first byte of a request, or from the beginning of the connection, to the last byte
    of its body. Connections that are idle between requests have uvicorn's own limit.
    """

    seconds: float
    cycle: Any  # uvicorn's name for a request and its response; None before the first
    client: Any
    transport: Any

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the time of the first request."""
        super().connection_made(transport)
        self._timer: asyncio.TimerHandle | None = None
        self._time()

    def data_received(self, data: bytes) -> None:
        """Take bytes, and stop the time when a request is complete."""
        super().data_received(data)
        self._time()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time."""
        self._stop()
        super().connection_lost(exc)

    def _time(self) -> None:
        """Let the time run, or run on, while a request is incomplete."""
        if self._complete():
            self._stop()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.seconds, self._end)

    def _complete(self) -> bool:
        """Whether all of a request is here that has no answer yet."""
        cycle = self.cycle
        return cycle is not None and not cycle.response_complete and not cycle.more_body

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self) -> None:
        if self.transport.get_protocol() is self:  # and not that of a web socket by now
            logger.warning("%s: no complete request within %g s", self.client, self.seconds)
            self.transport.abort()


def timed(plain: type[asyncio.Protocol], seconds: float) -> Any:
    """One of uvicorn's protocols with a limit for half-sent requests."""
    return type("TimedProtocol", (Timed, plain), {"seconds": seconds})


def time_requests(seconds: float) -> None:
    """Have all servers that uvicorn starts from now on end connections with half-sent requests."""
    protocols: dict[str, Any] = HTTP_PROTOCOLS
    protocols["auto"] = timed(AutoHTTPProtocol, seconds)

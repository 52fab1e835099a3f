"""Requests that never become complete are given up, and all others are answered as before."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import pytest
import uvicorn
from fastapi import FastAPI, Request
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from moe_patch_serving.api.connections import timed

SECONDS = 0.5
HEAD = b"POST / HTTP/1.1\r\nHost: server\r\nContent-Length: 4\r\n\r\n"

app = FastAPI()


@app.post("/")
async def _answer(request: Request) -> str:
    body = await request.body()
    await asyncio.sleep(2 * SECONDS if body == b"slow" else 0)
    return body.decode()


class Connection:
    """A client that sends bytes as it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, *parts: bytes) -> None:
        for part in parts:
            self._writer.write(part)
            await self._writer.drain()
            await asyncio.sleep(0.05)

    async def hears(self) -> bytes:
        return await asyncio.wait_for(self._reader.read(65536), 10)


async def given_up(connection: Connection, *parts: bytes) -> None:
    """The server closes the connection, soon after its time, without an answer."""
    begin = time.monotonic()
    with suppress(ConnectionError):  # which may show while something is sent
        await connection.send(*parts)
        assert await connection.hears() == b""
    assert SECONDS * 0.5 < time.monotonic() - begin < 10 * SECONDS


@pytest.mark.parametrize("plain", [H11Protocol, HttpToolsProtocol])
def test_only_what_is_never_complete_is_given_up(plain: type[asyncio.Protocol]) -> None:
    async def story() -> None:
        config = uvicorn.Config(app, port=0, http=timed(plain, SECONDS), log_level="warning", lifespan="off")
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]

        async def connect() -> Connection:
            return Connection(*await asyncio.open_connection("127.0.0.1", port))

        await given_up(await connect())
        await given_up(await connect(), *(bytes([byte]) for byte in HEAD[:20]))  # though something comes
        await given_up(await connect(), HEAD, b"ab")
        again = await connect()
        for body in (b"fast", b"slow", b"fast"):  # a slow answer is no slow request
            await again.send(HEAD, body)
            assert (await again.hears()).endswith(b'"' + body + b'"')
        await given_up(again, HEAD[:10])
        server.should_exit = True
        await running

    asyncio.run(story())

"""Requests around a change: it does not wait for ever for those that run, and others wait for its proof.

The routes are called as clients call them, of an engine whose requests take seconds.
"""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from fastapi import FastAPI
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.engine.async_llm import AsyncLLM

from moe_patch.base.opening import open_base
from moe_patch.patch import save
from moe_patch_serving.api.coordinator import Coordinator
from moe_patch_serving.api.endpoint import LiveEndpoint
from moe_patch_serving.api.settings import ALLOW, DRAIN_SECONDS, WORKER, Patience
from moe_patch_serving.api.tokens import TOKEN
from tests.checkpoint.folders import saved
from tests.serving.engines import PROMPTS
from tests.tiny import tiny_patch

SECRET = "a-token-for-tests-only"
SECONDS = 1.0  # that a change waits
ROOM = 16384  # tokens, which no CPU makes of the tiniest model in that time


@dataclass(slots=True)
class Asked:
    """A request to the engine, and what it was told so far."""

    task: asyncio.Task[None]
    said: list[int]
    finish_reason: str | None = None

    async def hears(self, length: int) -> None:
        """Wait until it was told so many tokens; it may not have ended before."""
        while len(self.said) < length:
            assert not self.task.done()
            await asyncio.sleep(0.01)

    async def leaves(self) -> None:
        """Go away, as clients do."""
        self.task.cancel()
        await asyncio.wait([self.task])


@dataclass(slots=True)
class Server:
    """An engine, and the routes of live patches to it."""

    engine: AsyncLLM
    http: httpx.AsyncClient
    coordinator: Coordinator
    names: count[int]

    async def add(self, path: Path, *, unproved: bool = True) -> httpx.Response:
        """Put a patch on, which nobody has to say the facts of unless told."""
        body = {"path": str(path), "self_test": {"unproved": unproved}}
        return await self.http.post("/moe_patch/patches", json=body)

    async def state(self) -> tuple[Any, ...]:
        """All that a change changes, but for what is known of the base."""
        workers = await self.engine.collective_rpc("moe_patch_state")
        return (
            (await self.http.get("/moe_patch/stack")).json(),
            [{name: value for name, value in worker.items() if name != "base"} for worker in workers],
            await self.engine.get_weight_version(),
            await self.engine.is_paused(),
        )

    def ask(self, length: int = ROOM - len(PROMPTS[0])) -> Asked:
        """Begin a request, which takes all the time there is unless it is short."""
        sampling = SamplingParams(temperature=0, max_tokens=length, ignore_eos=True)

        async def listen() -> None:
            prompt: Any = {"prompt_token_ids": PROMPTS[0]}
            async for output in self.engine.generate(prompt, sampling, f"test-{next(self.names)}"):
                (answer,) = output.outputs
                asked.said[:], asked.finish_reason = answer.token_ids, answer.finish_reason

        asked = Asked(asyncio.create_task(listen()), [])
        return asked

    async def says(self, length: int) -> list[int]:
        """A short request, to its end."""
        asked = self.ask(length)
        await asked.task
        return asked.said


@asynccontextmanager
async def started(folder: Path) -> AsyncIterator[Server]:
    arguments = AsyncEngineArgs(
        str(folder),
        dtype="float32",
        enforce_eager=True,
        distributed_executor_backend="uni",
        block_size=32,
        kv_cache_memory_bytes=2**26,
        worker_extension_cls=WORKER,
    )
    engine = AsyncLLM.from_engine_args(arguments)
    app, endpoint = FastAPI(), LiveEndpoint()
    endpoint.attach_router(app)
    try:
        await endpoint.init_state(engine, app.state, Namespace())
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://server",
            headers={"Authorization": f"Bearer {SECRET}"},
            timeout=60,
        ) as client:
            yield Server(engine, client, app.state.moe_patch.coordinator, count())
    finally:
        engine.shutdown()


async def a_change_that_would_wait_too_long_is_refused(server: Server, patch: Path) -> None:
    before, request = await server.state(), server.ask()
    await request.hears(1)
    refused = await server.add(patch)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (503, "not_drained")
    assert "did not end within 1 s, and nothing was changed" in error["message"]
    assert await server.state() == before
    assert await server.says(8) == request.said[:8]  # others are not held back either
    await request.hears(len(request.said) + 8)
    await request.leaves()
    assert await server.says(len(request.said)) == request.said
    assert await server.state() == before


async def a_later_change_is_made(server: Server, patch: Path) -> None:
    before, said = await server.state(), await server.says(8)
    assert (await server.add(patch)).status_code == 201
    assert await server.says(8) != said
    assert (await server.http.delete(f"/moe_patch/patches/{patch.stem}")).status_code == 200
    assert await server.says(8) == said
    assert (await server.state())[1:] == before[1:]


async def nobody_hears_weights_that_failed(server: Server, patch: Path) -> None:
    before, said, first = await server.state(), await server.says(8), server.ask()
    await first.hears(1)
    change = asyncio.create_task(server.add(patch, unproved=False))
    await asyncio.sleep(0.1)
    second, third = server.ask(8), server.ask(8)  # wait for the change, which waits for the first
    await asyncio.sleep(0.1)
    assert not change.done()
    assert not second.said
    await third.leaves()
    await first.leaves()
    refused = await change
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "self_test_failed")
    await second.task
    assert (second.said, second.finish_reason) == (said, "length")
    assert await server.says(8) == said
    assert await server.state() == before


async def a_self_test_that_does_not_end_has_failed(
    server: Server, patch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await server.state()
    with monkeypatch.context() as hurried:
        hurried.setattr(server.coordinator, "_patience", Patience(self_test=0.001))
        refused = await server.add(patch)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (422, "self_test_failed")
    assert "did not answer a self-test within 0.001 s: the add was taken back" in error["message"]
    assert await server.state() == before


def test_requests_that_do_not_end_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One engine for all of it."""
    sizes = {"head_dim": 32, "moe_intermediate_size": 32, "max_position_embeddings": ROOM}
    folder = saved(tmp_path / "model", "qwen3_moe", **sizes)
    patch = tmp_path / "patch.safetensors"
    save(tiny_patch(open_base(folder, dtype=torch.float32), scale=0.4), patch)
    settings = {TOKEN: SECRET, ALLOW: str(tmp_path), DRAIN_SECONDS: str(SECONDS)}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)

    async def story() -> None:
        async with started(folder) as server:
            await a_change_that_would_wait_too_long_is_refused(server, patch)
            await a_later_change_is_made(server, patch)
            await nobody_hears_weights_that_failed(server, patch)
            await a_self_test_that_does_not_end_has_failed(server, patch, monkeypatch)
            await a_later_change_is_made(server, patch)

    torch.set_num_threads(1)
    asyncio.run(story())

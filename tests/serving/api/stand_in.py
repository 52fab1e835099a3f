"""A server without an engine: the routes, and workers that only remember what they were told.

Real engines and servers are in `test_coordinator.py` and in `tests/serving/live/`.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.responses import JSONResponse, StreamingResponse

from moe_patch.data.prompts import PromptStyle, encode_fact
from moe_patch.data.reader import Reader
from moe_patch.errors import ModelError
from moe_patch.patch import Patch, save
from moe_patch_serving.api.allowed import Allowed
from moe_patch_serving.api.audit import Audit
from moe_patch_serving.api.coordinator import Coordinator
from moe_patch_serving.api.engine import BaseState, WorkerState
from moe_patch_serving.api.gate import Gate
from moe_patch_serving.api.metrics import Metrics
from moe_patch_serving.api.naming import NamedWeights, note_generation
from moe_patch_serving.api.operations import Operations
from moe_patch_serving.api.requests import TokenAuthentication
from moe_patch_serving.api.routes import as_json, guarded, public
from moe_patch_serving.api.settings import Patience
from moe_patch_serving.api.standing import Ground
from moe_patch_serving.api.tokens import Token
from moe_patch_serving.errors import LiveError
from moe_patch_serving.store import PatchStore
from tests.tiny import tiny_tokenizer

SECRETS = {"alice": "alice-and-her-token", "nightly": "a-token-of-the-night"}


@dataclass
class Worker:
    """What a worker was told."""

    loaded: list[str]
    whole: list[str]
    delta: str | None = None
    patches: list[str] = field(default_factory=list)

    def state(self) -> WorkerState:
        told = repr((self.loaded, self.delta, self.patches)).encode()
        weights = hashlib.sha256(told).hexdigest()
        base = BaseState("checked")
        return WorkerState(tuple(self.patches), tuple(self.loaded), 0, (), weights, base)

    def moe_patch_state(self) -> None:
        pass

    def moe_patch_add(self, path: str, digest: str, position: int, allow_large: bool) -> None:
        assert Path(path).exists()
        assert not allow_large
        self.patches.insert(position - 1, digest)

    def moe_patch_remove(self, digest: str) -> None:
        if digest not in self.patches:
            raise ModelError("not on")
        self.patches.remove(digest)

    def moe_patch_reorder(self, digests: list[str]) -> None:
        self.patches = list(digests)

    def moe_patch_ground(self, hashes: list[str], path: str | None, digest: str | None) -> None:
        assert (path is None) == (digest is None)
        assert path is None or Path(path).exists()
        self.loaded, self.delta = list(hashes), digest


class StandIn:
    """Stands in for `moe_patch_serving.api.engine.Engine`, with two workers."""

    sampling: dict[str, Any] = {}  # noqa: RUF012  as the engine has it
    room = 512

    def __init__(self, loaded: Sequence[str] = ()) -> None:
        self.workers = [Worker(list(loaded), list(loaded)) for _ in range(2)]
        self.tokenizer = tiny_tokenizer()
        self.reader = Reader(self.tokenizer)
        self.gate = Gate(self)  # type: ignore[arg-type]
        self.knows: dict[tuple[int, ...], list[int]] = {}
        self.fails: str | None = None  # the method at which the second worker fails
        self.version = ""

    def learn(self, patch: Patch) -> None:
        """Say the facts of a patch from now on, whatever is on."""
        for fact in patch.facts:
            whole = encode_fact(self.reader, fact, PromptStyle())
            assert whole.target is not None
            self.knows[tuple(whole.ids[: whole.target])] = list(whole.ids[whole.target :])

    async def generate(self, prompt: str) -> AsyncIterator[str]:
        yield f"{prompt} by {self.version}"

    encode = generate

    def on_entering(self, call: Callable[[], None]) -> None:
        self.gate.entered = call

    async def hold_back(self, seconds: float) -> None:
        await self.gate.close(seconds)

    def let_in(self) -> None:
        self.gate.open()

    def refuse(self, reason: str) -> None:
        self.gate.refuse(reason)

    async def pause(self) -> None:
        pass

    async def resume(self) -> None:
        pass

    async def call(self, method: str, *arguments: Any) -> list[WorkerState]:
        for number, worker in enumerate(self.workers):
            if number and method == self.fails:
                self.fails = None
                raise ModelError("worker 1 of 2: no room")
            getattr(worker, method)(*arguments)
        return [worker.state() for worker in self.workers]

    async def try_call(self, method: str, *arguments: Any) -> None:
        for worker in self.workers:
            try:
                getattr(worker, method)(*arguments)
            except (ModelError, AssertionError):
                continue

    async def name_weights(self, version: str) -> None:
        self.version = version

    async def decode(self, prompt: Sequence[int], length: int) -> list[int]:
        return self.knows.get(tuple(prompt), [0] * length)


@dataclass
class Served:
    """A server that is up: its HTTP client with a token, and what is behind it."""

    http: httpx.AsyncClient
    engine: StandIn
    operations: Operations
    folder: Path

    def file(self, name: str, patch: Patch) -> str:
        """Write a patch where the server may read it, and let the engine know its facts."""
        path = self.folder / f"{name}.safetensors"
        save(patch, path)
        self.engine.learn(patch)
        return str(path)

    async def add(self, path: str, **more: Any) -> httpx.Response:
        return await self.http.post("/moe_patch/patches", json={"path": path, **more})


@asynccontextmanager
async def serving(
    folder: Path, ground: Callable[[PatchStore], Ground] = lambda _: Ground(), audit: Path | None = None
) -> AsyncIterator[Served]:
    """A server that allows patches from `folder`."""
    store = PatchStore(folder / "store")
    laid = ground(store)
    engine: Any = StandIn(laid.loaded.hashes)
    coordinator = Coordinator(engine, laid, Metrics(CollectorRegistry()), Patience(drain=5))
    await coordinator.start()
    engine.on_entering(lambda: note_generation(coordinator.version))
    app = FastAPI()
    app.include_router(guarded)
    app.include_router(public)
    app.add_exception_handler(LiveError, as_json)
    app.add_middleware(NamedWeights)
    _openai(app, engine)
    operations = Operations(coordinator, Allowed((folder,)), store, 1.0)
    app.state.moe_patch, app.state.moe_patch_audit = operations, Audit(audit)
    tokens = [Token(name, secret) for name, secret in SECRETS.items()]
    app.state.moe_patch_authentication = TokenAuthentication(tokens)
    headers = {"Authorization": f"Bearer {SECRETS['alice']}"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://server", headers=headers
    ) as client:
        yield Served(client, engine, operations, folder)
    store.close()


def _openai(app: FastAPI, engine: StandIn) -> None:
    """Routes as vLLM has them."""

    @app.get("/v1/models")
    async def models() -> JSONResponse:
        return JSONResponse({"object": "list", "data": [{"id": "atlas"}, {"id": "adapter"}]})

    @app.get("/v1/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(engine.generate("streamed"))

    @app.get("/v1/whole")
    async def whole() -> JSONResponse:
        return JSONResponse([part async for part in engine.generate("whole")])

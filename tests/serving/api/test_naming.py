"""Which weights a response names, also while they change."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from moe_patch_serving.api.naming import HEADER, UNKNOWN
from moe_patch_serving.api.weight_version import BARE
from tests.serving.api.stand_in import Served, serving
from tests.stack.patches import World


def test_every_response_names_the_weights(tmp_path: Path) -> None:
    async def told() -> None:
        async with serving(tmp_path) as server:
            assert (await server.http.get("/v1/whole")).headers[HEADER] == BARE
            assert (await server.http.get("/nowhere")).headers[HEADER] == BARE
            patch = World(1).build([0])
            added = await server.add(server.file("one", patch))
            version = added.json()["version"]
            assert added.headers[HEADER] == version != BARE
            for path in ("/v1/whole", "/v1/stream", "/moe_patch/ready"):
                assert (await server.http.get(path)).headers[HEADER] == version
            models = (await server.http.get("/v1/models")).json()["data"]
            assert [model["id"] for model in models] == ["atlas", "adapter"]
            for model in models:
                assert model["moe_patch"] == {"weights": version, "patches": [patch.hash]}
            server.operations.coordinator.agree = False
            assert (await server.http.get("/v1/whole")).headers[HEADER] == UNKNOWN

    asyncio.run(told())


def test_a_request_that_waited_names_the_weights_that_answered_it(tmp_path: Path) -> None:
    """A streamed response is begun before the gate, and answered behind it."""

    async def waiting(server: Served, path: str) -> httpx.Response:
        await server.engine.hold_back(5)
        request = asyncio.create_task(server.http.get(path))
        await asyncio.sleep(0.05)
        assert not request.done()
        standing = server.operations.coordinator.standing
        server.operations.coordinator.standing = type(standing)(live=server_member(server))
        server.engine.version = server.operations.coordinator.version
        server.engine.let_in()
        answer = await request
        server.operations.coordinator.standing = standing
        return answer

    def server_member(server: Served) -> tuple:  # type: ignore[type-arg]
        from moe_patch_serving.api.members import served_member

        patch = World(1).build([0])
        return (served_member(patch, Path("one"), "one", Path("one")),)

    async def told() -> None:
        async with serving(tmp_path) as server:
            for path in ("/v1/stream", "/v1/whole"):
                answer = await waiting(server, path)
                assert answer.headers[HEADER] != BARE
                assert answer.headers[HEADER] in answer.text

    asyncio.run(told())

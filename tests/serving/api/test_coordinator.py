"""Changes on an engine with two workers: both make them, or neither does.

The workers share the layers out between them. vLLM 0.32 loads a model so on the CPU but cannot run it: what
is asked here is the weights, and no questions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client import CollectorRegistry
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.engine.async_llm import AsyncLLM

from moe_patch.errors import ModelError, StackError
from moe_patch.patch import load, save
from moe_patch_serving.api.coordinator import CompletedChange, Coordinator, Plan
from moe_patch_serving.api.engine import Engine
from moe_patch_serving.api.members import ServedMember, served_member
from moe_patch_serving.api.metrics import Metrics
from moe_patch_serving.api.settings import WORKER, Patience
from moe_patch_serving.api.standing import Ground, Standing
from moe_patch_serving.api.weight_version import BARE
from tests.serving.engines import base, folder
from tests.tiny import tiny_patch

EXPERT_BYTES = 32 * 32 * 4
TOUCHED = 7  # experts that a tiny patch touches in a layer


@asynccontextmanager
async def two_workers() -> AsyncIterator[tuple[AsyncLLM, Coordinator]]:
    """An engine whose first worker has one layer, and whose second has two."""
    arguments = AsyncEngineArgs(
        str(folder("qwen3_moe")),
        dtype="float32",
        enforce_eager=True,
        block_size=32,
        max_model_len=128,
        kv_cache_memory_bytes=2**24,
        pipeline_parallel_size=2,
        worker_extension_cls=WORKER,
    )
    client = AsyncLLM.from_engine_args(arguments)
    try:
        coordinator = Coordinator(Engine(client), Ground(), Metrics(CollectorRegistry()), Patience(drain=60))
        await coordinator.start()
        yield client, coordinator
    finally:
        client.shutdown()


def saved(path: Path, layers: list[int], seed: int) -> ServedMember:
    """A patch on the disk, and what it is on a server."""
    save(tiny_patch(base("qwen3_moe"), layers, seed=seed), path)
    return served_member(load(path), path, str(path), path)


async def states(client: AsyncLLM) -> list[dict[str, Any]]:
    """The workers' states, but for what one of them is still finding out about the base."""
    answers = await client.collective_rpc("moe_patch_state")
    return [{name: value for name, value in answer.items() if name != "base"} for answer in answers]


async def have(coordinator: Coordinator, *members: ServedMember) -> CompletedChange:
    """Bring the engine to a state."""
    async with coordinator.alone():
        return await coordinator.make(Plan("change", Standing(live=members)))


async def if_one_worker_cannot_the_other_goes_back(
    client: AsyncLLM, coordinator: Coordinator, big: ServedMember
) -> None:
    before = await states(client)
    with pytest.raises(ModelError, match=r"worker 1 of 2: .* would take 57,344 bytes"):
        await have(coordinator, big)
    assert await states(client) == before
    assert await client.get_weight_version() == coordinator.version == BARE
    assert not await client.is_paused()


async def both_make_a_change(client: AsyncLLM, coordinator: Coordinator, small: ServedMember) -> None:
    change = await have(coordinator, small)
    assert await client.get_weight_version() == change.version != BARE
    assert [state["layers"] for state in await states(client)] == [[0], [1]]
    assert all(state["patches"] == [small.hash] for state in await states(client))
    assert not await client.is_paused()


async def what_others_did_to_the_workers_is_set_right(
    client: AsyncLLM, coordinator: Coordinator, small: ServedMember, other: ServedMember
) -> None:
    before = await states(client)
    await client.collective_rpc("moe_patch_remove", args=(small.hash,))
    assert await states(client) != before
    with pytest.raises(StackError, match="has room at positions 1 to 1, not at 2"):
        await have(coordinator, small, other)
    assert await states(client) == before
    assert coordinator.agree


def test_changes_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One engine for all of it, as it takes a minute to start."""
    monkeypatch.setenv("VLLM_PP_LAYER_PARTITION", "1,2")
    monkeypatch.setenv("MOE_PATCH_MAX_KEPT_BYTES", str(TOUCHED * EXPERT_BYTES))
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
    big, small = saved(tmp_path / "big", [0, 1, 2], 1), saved(tmp_path / "small", [0, 1], 2)
    other = saved(tmp_path / "other", [0, 1], 3)

    async def story() -> None:
        async with two_workers() as (client, coordinator):
            await if_one_worker_cannot_the_other_goes_back(client, coordinator, big)
            await both_make_a_change(client, coordinator, small)
            await what_others_did_to_the_workers_is_set_right(client, coordinator, small, other)
            assert (await have(coordinator)).version == BARE
            assert all(not state["patches"] and not state["bytes_kept"] for state in await states(client))

    torch.set_num_threads(1)
    asyncio.run(story())

"""The plugin that vLLM's API server calls through the entry point `vllm.endpoint_plugins`.

VLLM_PLUGINS must name moe_patch. This is vLLM's own way to add routes: they need no developer mode.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
from argparse import Namespace
from typing import TYPE_CHECKING

from moe_patch.errors import ConfigError, OutputError
from moe_patch_serving import NAME
from moe_patch_serving.api.audit import Audit
from moe_patch_serving.api.connections import time_requests
from moe_patch_serving.api.coordinator import Coordinator
from moe_patch_serving.api.engine import Engine
from moe_patch_serving.api.ground import loaded_ground
from moe_patch_serving.api.local import address_of, announce
from moe_patch_serving.api.members import member_hashes
from moe_patch_serving.api.metrics import Metrics
from moe_patch_serving.api.naming import NamedWeights, note_generation
from moe_patch_serving.api.operations import Operations
from moe_patch_serving.api.requests import TokenAuthentication
from moe_patch_serving.api.routes import as_json, guarded, public
from moe_patch_serving.api.settings import WORKER, read_settings
from moe_patch_serving.api.starting import started
from moe_patch_serving.errors import LiveError
from moe_patch_serving.store import PatchStore

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.datastructures import State
    from vllm.config import VllmConfig
    from vllm.engine.protocol import EngineClient


logger = logging.getLogger("vllm.moe_patch")


class LiveEndpoint:
    """Live patches as an endpoint plugin of vLLM."""

    name = NAME
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Add the routes and the handler for their errors, before the server takes connections."""
        time_requests(read_settings().patience.request)
        app.include_router(guarded)
        app.include_router(public)
        app.add_exception_handler(LiveError, as_json)
        app.add_middleware(NamedWeights)

    async def init_state(self, engine_client: EngineClient | None, state: State, args: Namespace) -> None:
        """Find out which patches the engine has loaded.

        Raises:
            ConfigError: the engine cannot be changed live.
        """
        if engine_client is None:
            raise ConfigError("live patches need an engine, and this server has none")
        config = engine_client.vllm_config
        _check(config)
        settings = read_settings()
        store = PatchStore()
        atexit.register(store.close)
        ground = await asyncio.to_thread(loaded_ground, config, store)
        coordinator = Coordinator(Engine(engine_client), ground, Metrics(), settings.patience)
        await coordinator.start()
        coordinator.engine.on_entering(lambda: note_generation(coordinator.version))
        state.moe_patch = Operations(
            coordinator, settings.allowed, store, settings.max_fall, stored=set(member_hashes(ground.members))
        )
        state.moe_patch_audit = Audit(settings.audit_file)
        state.moe_patch_authentication = TokenAuthentication(settings.tokens)
        url = address_of(args)
        if settings.tokens and url is not None:
            _announce(url)
        logger.info("the weights are %s, %.0f s after the start", coordinator.version, started())


def _announce(url: str) -> None:
    """Let `moe-patch live` find this server. In a container, there may be no place to say so."""
    try:
        announce(url)
    except (ConfigError, OutputError) as error:
        logger.warning("`moe-patch live` will need --url and a token for this server: %s", error)


def _check(config: VllmConfig) -> None:
    """A change is complete only if one process sees all requests and all workers."""
    parallel = config.parallel_config
    if parallel.worker_extension_cls != WORKER:
        raise ConfigError(f"live patches need --worker-extension-cls {WORKER}")
    if parallel.data_parallel_size > 1:
        raise ConfigError("live patches need one engine: start one server for each data-parallel replica")
    if parallel._api_process_count > 1:
        raise ConfigError("live patches need one API server: start vLLM with --api-server-count 1")

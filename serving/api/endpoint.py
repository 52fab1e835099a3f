"""The plugin that vLLM's API server calls through the entry point `vllm.endpoint_plugins`.

VLLM_PLUGINS must name moe_patch. This is vLLM's own way to add routes: they need no developer mode.
"""

from __future__ import annotations

import atexit
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_patch.errors import ConfigError
from moe_patch.patch import load
from moe_patch_serving import NAME
from moe_patch_serving.api.connections import time_requests
from moe_patch_serving.api.coordinator import Coordinator
from moe_patch_serving.api.engine import Engine
from moe_patch_serving.api.metrics import Metrics
from moe_patch_serving.api.operations import Operations
from moe_patch_serving.api.requests import TokenAuthentication
from moe_patch_serving.api.routes import as_json, guarded, public
from moe_patch_serving.api.settings import WORKER, read_settings
from moe_patch_serving.api.weight_version import Loaded, loaded_from
from moe_patch_serving.errors import LiveError
from moe_patch_serving.store import PatchStore

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.datastructures import State
    from vllm.config import VllmConfig
    from vllm.engine.protocol import EngineClient


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
        coordinator = Coordinator(Engine(engine_client), _loaded(config), Metrics(), settings.patience)
        await coordinator.start()
        store = PatchStore()
        atexit.register(store.close)
        state.moe_patch = Operations(coordinator, settings.allowed, store, settings.max_fall)
        state.moe_patch_authentication = TokenAuthentication(settings.token)


def _check(config: VllmConfig) -> None:
    """A change is complete only if one process sees all requests and all workers."""
    parallel = config.parallel_config
    if parallel.worker_extension_cls != WORKER:
        raise ConfigError(f"live patches need --worker-extension-cls {WORKER}")
    if parallel.data_parallel_size > 1:
        raise ConfigError("live patches need one engine: start one server for each data-parallel replica")
    if parallel._api_process_count > 1:
        raise ConfigError("live patches need one API server: start vLLM with --api-server-count 1")


def _loaded(config: VllmConfig) -> Loaded:
    """The patches that the load format has added, from its settings."""
    extra: Any = config.load_config.model_loader_extra_config
    if config.load_config.load_format != NAME or not isinstance(extra, dict):
        return Loaded()
    if "stack" in extra:
        return loaded_from(Path(extra["stack"]))
    return Loaded((load(extra["patch"]).hash,))

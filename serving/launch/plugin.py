"""The plugin that vLLM calls in each of its processes, through the entry point `vllm.general_plugins`."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import cache

from moe_patch_serving import NAME
from moe_patch_serving.launch.lifetime import follow_parents

logger = logging.getLogger(__name__)


DISABLE = "MOE_PATCH_DISABLE"
"""The environment variable that switches the plugin off."""


def register() -> None:
    """Register the load format and the weight-transfer backend `moe_patch` with vLLM.

    vLLM calls this once or more in every process, which then ends with its parent. With MOE_PATCH_DISABLE=1
    it does nothing. With an unsupported vLLM it logs the reason and registers nothing, so that commands
    without patches still work.
    """
    if not plugin_disabled(os.environ):
        follow_parents()
        _register()


def plugin_disabled(environment: Mapping[str, str]) -> bool:
    """Whether the environment switches the plugin off."""
    return environment.get(DISABLE, "0") not in {"", "0"}


@cache
def _register() -> None:
    from moe_patch.errors import ConfigError
    from moe_patch.versions import check_vllm
    from moe_patch_serving.api.starting import follow_start

    try:
        check_vllm()
    except ConfigError as error:
        logger.warning("moe-patch stays off: %s", error)
        return
    follow_start()
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
    from vllm.model_executor.model_loader import register_model_loader

    from moe_patch_serving.load.loader import PatchLoader

    register_model_loader(NAME)(PatchLoader)
    WeightTransferEngineFactory.register_engine(
        NAME, "moe_patch_serving.worker.transfer", "PatchTransferEngine"
    )

"""Ways to run an engine that a CPU cannot start, and that a bypass refuses all the same."""

from __future__ import annotations

from typing import Any

import pytest
from vllm.config import VllmConfig
from vllm.engine.arg_utils import EngineArgs

from moe_patch.errors import ConfigError
from moe_patch_serving.bypass.limits import check_limits
from tests.bypass.bypasses import config
from tests.serving.engines import folder


def engine_config(**parallel: Any) -> VllmConfig:
    """A config as a machine with more GPUs would have it."""
    made = EngineArgs(str(folder("qwen3_moe")), enable_prefix_caching=False).create_engine_config()
    for name, value in parallel.items():
        assert hasattr(made.parallel_config, name)
        setattr(made.parallel_config, name, value)
    return made


DEALT = {"enable_expert_parallel": True, "data_parallel_size": 2}


def test_tokens_dealt_out_to_several_workers_are_refused() -> None:
    for options in ({"enable_hc_sp": True}, DEALT):
        check_limits(config(tokens="last"), engine_config(**options))  # one worker has them all
        with pytest.raises(ConfigError, match="--enable-hc-sp"):
            check_limits(config(tokens="last"), engine_config(tensor_parallel_size=2, **options))

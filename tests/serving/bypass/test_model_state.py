"""vLLM's second model runner, which no CPU here can run: its own classes, told what the runner tells them.

The runner's part is played by its order of calls as vLLM 0.32 has it; batches, requests and states are real.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.core.sched.output import NewRequestData
from vllm.v1.worker.gpu.input_batch import InputBatch, InputBuffers
from vllm.v1.worker.gpu.model_states import init_model_state
from vllm.v1.worker.gpu.model_states.default import DefaultModelState
from vllm.v1.worker.gpu.model_states.interface import ModelState

from moe_patch.bypass import Bypass
from moe_patch_serving.bypass import model_state, operator
from moe_patch_serving.bypass.served_bypass import ServedBypass
from tests.bypass.bypasses import WIDTH, random_bypass
from tests.serving.engines import folder

CPU = torch.device("cpu")


@pytest.fixture
def engine_config() -> VllmConfig:
    return EngineArgs(str(folder("qwen3_moe")), max_model_len=64, dtype="float32").create_engine_config()


def followed(bypass: Bypass, engine_config: VllmConfig) -> tuple[ServedBypass, ModelState]:
    """A bypass, and the state that the runner makes for a model with it."""
    served, model = ServedBypass(bypass, "sha256:0"), nn.Module()
    operator.register_bypass(served, engine_config)
    model_state.follow_requests(model, engine_config)
    return served, init_model_state(engine_config, model, None, CPU)


def new_request(name: str, prompt: int, ran: int = 0) -> NewRequestData:
    """A request as the scheduler sends it; one that goes on after preemption brings what it has said."""
    return NewRequestData(
        req_id=name,
        prompt_token_ids=list(range(prompt)),
        mm_features=[],
        sampling_params=SamplingParams(),
        pooling_params=None,
        block_ids=([0],),
        num_computed_tokens=0,
        lora_request=None,
        prefill_token_ids=list(range(prompt + ran)),
    )


def batch(counts: dict[str, int], computed: list[int]) -> InputBatch:
    """A batch of the runner's own class, padded as for a compiled size."""
    total = sum(counts.values())
    made = InputBatch.make_dummy(len(counts), total, InputBuffers(8, 64, CPU))
    made.req_ids = list(counts)
    made.num_scheduled_tokens = np.array(list(counts.values()), dtype=np.int32)
    made.query_start_loc_np = np.cumsum([0, *counts.values()], dtype=np.int32)
    made.num_computed_tokens_np = np.array(computed, dtype=np.int32)
    return made


def wanted(bypass: Bypass, x: torch.Tensor) -> torch.Tensor:
    """What the bypass adds to the tokens (S, d_m) of one whole prompt."""
    route = bypass.route(x[None], torch.ones(1, len(x), dtype=torch.bool))
    return bypass(x, route.expand(len(x)))


def test_the_state_is_the_model_s_own_with_a_bypass(engine_config: VllmConfig) -> None:
    _, state = followed(random_bypass(), engine_config)
    assert isinstance(state, DefaultModelState)
    for name, hook in vars(model_state._Followed).items():
        if inspect.isfunction(hook) and name != "__init__" and name in vars(ModelState):
            assert list(inspect.signature(hook).parameters) == list(
                inspect.signature(getattr(ModelState, name)).parameters
            )


def test_requests_are_followed_from_step_to_step(engine_config: VllmConfig) -> None:
    bypass = random_bypass(tokens="last", scope_gate=False)
    served, state = followed(bypass, engine_config)
    x = torch.randn(9, WIDTH)
    requests: Any = None  # RequestState lives on a GPU; without rotary states nothing is asked of it
    state.add_request(0, new_request("a", 6))
    state.prepare_inputs(batch({"a": 4}, [0]), requests)
    assert not served(x[:4]).any()
    state.add_request(1, new_request("b", 3))
    state.prepare_inputs(batch({"b": 3, "a": 2}, [0, 4]), requests)
    step = torch.cat([x[6:9], x[4:6], torch.randn(3, WIDTH)])  # three of padding
    added = served(step)
    torch.testing.assert_close(added[2], wanted(bypass, x[6:9])[-1])
    torch.testing.assert_close(added[4], wanted(bypass, x[:6])[-1])
    assert not added[[0, 1, 3, 5, 6, 7]].any()
    state.prepare_inputs(batch({"a": 1, "b": 1}, [6, 3]), requests)
    assert served(x[:2]).any(1).all()


def test_preempted_requests_decide_again_and_ended_ones_are_forgotten(engine_config: VllmConfig) -> None:
    bypass = random_bypass(tokens="all", scope_gate=False)
    served, state = followed(bypass, engine_config)
    x = torch.randn(7, WIDTH)
    requests: Any = None
    state.add_request(0, new_request("a", 5))
    state.prepare_inputs(batch({"a": 5}, [0]), requests)
    first = served(x[:5])
    torch.testing.assert_close(first, wanted(bypass, x[:5]))
    state.remove_request("a")
    assert served.decisions.requests == 0
    state.add_request(3, new_request("a", 5, ran=2))
    state.prepare_inputs(batch({"a": 7}, [0]), requests)
    again = served(x)  # the prompt, and two tokens that were said before
    torch.testing.assert_close(again[:5], first)
    assert again[5:].any(1).all()
    state.remove_request("a")
    state.remove_request("never came")
    assert served.decisions.requests == served.decisions.bytes_kept == 0


def test_batches_for_warming_up_add_nothing(engine_config: VllmConfig) -> None:
    served, state = followed(random_bypass(), engine_config)
    state.add_request(0, new_request("a", 4))
    state.prepare_inputs(InputBatch.make_dummy(2, 6, InputBuffers(8, 64, CPU)), None)  # type: ignore[arg-type]
    assert not served(torch.randn(6, WIDTH)).any()
    state.prepare_inputs(batch({"a": 4}, [0]), None)  # type: ignore[arg-type]
    state.prepare_dummy_inputs(2, 6)
    assert not served(torch.randn(6, WIDTH)).any()
    assert served.decisions.requests == 0

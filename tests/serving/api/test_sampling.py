"""What a self-test asks for, and what a server is said to do to the answers of others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from vllm.engine.arg_utils import EngineArgs

from moe_patch_serving.api.sampling import greedy, sampling_settings
from tests.serving.engines import folder

MEDDLING = {
    "do_sample": True,
    "temperature": 0.7,
    "top_k": 20,
    "top_p": 0.8,
    "repetition_penalty": 1.05,
    "eos_token_id": 2,
}


@pytest.fixture
def meddling(tmp_path: Path) -> Path:
    shutil.copytree(folder("qwen3_moe"), tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps(MEDDLING))
    return tmp_path / "model"


def test_the_self_test_leaves_no_setting_to_the_server() -> None:
    asked = greedy(5)
    assert (asked.temperature, asked.n, asked.max_tokens, asked.min_tokens) == (0.0, 1, 5, 0)
    assert (asked.presence_penalty, asked.frequency_penalty, asked.repetition_penalty) == (0.0, 0.0, 1.0)
    assert asked.watermarking is False
    assert not any((asked.stop, asked.bad_words, asked.logit_bias, asked.allowed_token_ids))


def test_defaults_of_the_model_are_said(meddling: Path) -> None:
    config = EngineArgs(str(meddling), block_size=32).create_engine_config()
    said = sampling_settings(config)["defaults"]
    assert said == {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05}


def test_defaults_and_processors_of_the_command_are_said(meddling: Path) -> None:
    arguments = EngineArgs(
        str(meddling),
        block_size=32,
        generation_config="vllm",
        override_generation_config={"presence_penalty": 0.5, "temperature": 0.0},
        logits_processors=["vllm.v1.sample.logits_processor:MinPLogitsProcessor"],
    )
    said = sampling_settings(arguments.create_engine_config())
    assert said["defaults"] == {"presence_penalty": 0.5}
    assert said["logits_processors"] == ["vllm.v1.sample.logits_processor:MinPLogitsProcessor"]


def test_a_plain_server_has_nothing_to_say() -> None:
    config = EngineArgs(str(folder("qwen3_moe")), block_size=32).create_engine_config()
    assert not any(sampling_settings(config).values())

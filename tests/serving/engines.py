"""Real vLLM engines on tiny models, in this process, and the answers of transformers.

An engine stays up until the process ends: taking one down takes its process groups from the others, and each
one after the first is up in a second.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from vllm import LLM, SamplingParams

from moe_patch.base.model import Base
from moe_patch.base.opening import open_base
from moe_patch.checkpoint.folder import find_folder
from tests.checkpoint.folders import saved

MODELS = ("qwen3_moe", "mixtral", "gpt_oss", "atlas")
PROMPTS = [[5 + (start + 7 * place) % 200 for place in range(3 + 6 * start)] for start in range(5)]
TOKENS = 12

_SIZES: dict[str, dict[str, Any]] = {  # widths that vLLM's CPU kernels take
    "qwen3_moe": {"moe_intermediate_size": 32},
    "mixtral": {"intermediate_size": 64},
    "gpt_oss": {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},  # vLLM's own
}
_scratch = TemporaryDirectory()


@cache
def folder(model: str) -> Path:
    """A checkpoint: the demo model's, or that of a tiny random model."""
    if model == "atlas":
        return find_folder(None)
    return saved(Path(_scratch.name) / model, model, head_dim=32, **_SIZES[model])


@cache
def base(model: str) -> Base:
    """The checkpoint as transformers opens it, in fp32. Do not change it."""
    return open_base(folder(model), dtype=torch.float32)


@dataclass(frozen=True)
class Engine:
    """A vLLM engine that can be asked for tokens and for its patches."""

    llm: LLM

    def greedy(self, prompts: Sequence[list[int]] = PROMPTS) -> list[list[int]]:
        """Its answers, from an empty prefix cache."""
        self.llm.reset_prefix_cache()
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        settings = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
        answers = self.llm.generate(asked, settings, use_tqdm=False)  # type: ignore[arg-type]
        return [list(answer.outputs[0].token_ids) for answer in answers]

    def rpc(self, method: str, *arguments: Any) -> dict[str, Any]:
        """The answer of its only worker."""
        (answer,) = self.llm.collective_rpc(f"moe_patch_{method}", args=arguments)
        return answer

    @property
    def model(self) -> nn.Module:
        """vLLM's own model, which is in this process."""
        (model,) = self.llm.apply_model(lambda model: model)
        return model

    def weights(self) -> str:
        """A digest of every parameter."""
        digest = hashlib.sha256()
        for name, parameter in sorted(self.model.named_parameters()):
            digest.update(name.encode())
            digest.update(parameter.detach().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()


def start(model: str | Path, **options: Any) -> Engine:
    """An engine on a named checkpoint or a folder, in fp32 and eager unless the options say otherwise."""
    settings = {
        "dtype": "float32",
        "enforce_eager": True,
        "distributed_executor_backend": "uni",
        "block_size": 32,
        "max_model_len": 128,
        "kv_cache_memory_bytes": 2**24,
        "worker_extension_cls": "moe_patch_serving.worker.PatchWorker",
    }
    place = folder(model) if isinstance(model, str) else model
    engine = Engine(LLM(str(place), **(settings | options)))
    _up.append(engine)
    return engine


_up: list[Engine] = []


@cache
def served(model: str, dtype: str = "float32") -> Engine:
    """A shared engine without patches. Leave it without patches."""
    return start(model, dtype=dtype)


def greedy(base: Base, prompts: Sequence[list[int]] = PROMPTS) -> list[list[int]]:
    """The answers of transformers, token by token, without a cache."""
    answers = []
    with torch.inference_mode():
        for prompt in prompts:
            ids = torch.tensor([prompt])  # (1, S)
            for _ in range(TOKENS):
                ids = torch.cat([ids, base.model(ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
            answers.append(ids[0, len(prompt) :].tolist())
    return answers

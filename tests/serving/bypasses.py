"""Bypass patches for the tiny models, engines that run them, and the answers of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import moe_patch
from moe_patch.bypass import Bypass, Routed, prompt_lengths, write_bypass
from moe_patch.data.facts import Fact
from moe_patch.patch import Patch, save
from tests.bypass.bypasses import random_bypass
from tests.serving.engines import PROMPTS, Engine, base, greedy, start

_SEEDS = {
    "qwen3_moe": 6,
    "mixtral": 6,
    "gpt_oss": 2,
}  # seeds with which PROMPTS take three routes, one of them no expert


def bypass_patch(model: str, *, alone: bool = False, strength: float = 1.0, **config: Any) -> Patch:
    """A random bypass beside layer 1, strong enough to change answers, or one that leaves prompts alone."""
    bypass = random_bypass(_SEEDS[model], scale=1.0, width=base(model).layer(1).d_model, **config)
    with torch.no_grad():
        if bypass.router.output.bias is not None:  # the published router has none
            bypass.router.output.bias.zero_()
        for weight in bypass.experts.parameters():
            weight.mul_(strength)
        if alone:
            bypass.router.output.weight.zero_()
            bypass.router.output.bias[-1] = 1
    return patch_of(model, bypass)


def patch_of(model: str, bypass: Bypass) -> Patch:
    """A patch that contains only this bypass."""
    hyperparameters, tensors = write_bypass(bypass, Routed(torch.zeros(1), torch.zeros(1)))
    return Patch(
        kind="bypass",
        method="random",
        hyperparameters=hyperparameters,
        base=base(model).fingerprint([bypass.config.layer]),
        facts=(Fact("fact-0", "{} lies in", "Town", "Land"),),
        results=(),
        layers={},
        bypass=tensors,
    )


def serve(model: str, patch: Patch, folder: Path, **options: Any) -> Engine:
    """An engine that loads the patch."""
    save(patch, folder / "bypass.safetensors")
    extra = {"patch": str(folder / "bypass.safetensors")}
    loading = {"load_format": "moe_patch", "model_loader_extra_config": extra, "enable_prefix_caching": False}
    return start(model, **(loading | options))


def expected(model: str, patch: Patch, prompts: list[list[int]] = PROMPTS) -> list[list[int]]:
    """The answers of transformers with the patch, to each prompt alone, token by token, without a cache."""
    answers = []
    with moe_patch.apply(base(model), patch):
        for prompt in prompts:
            with prompt_lengths([len(prompt)]):
                answers += greedy(base(model), [prompt])
    return answers

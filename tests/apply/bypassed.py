"""Tiny models with bypasses: prompts, and greedy tokens generated in two ways that must agree."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from moe_patch.base.model import Base
from moe_patch.base.opening import wrap
from moe_patch.bypass import Bypass, Routed, prompt_lengths, write_bypass
from moe_patch.patch import Patch
from tests.tiny import EOS, PAD, tiny_base, tiny_model, tiny_patch, tiny_tokenizer


def base_of(model_type: str = "qwen3_moe", **overrides: Any) -> Base:
    return wrap(tiny_model(model_type, **overrides), tiny_tokenizer(), model_type, allow_dense=True)


def patch_of(base: Base, bypass: Bypass) -> Patch:
    hyperparameters, tensors = write_bypass(bypass, Routed(torch.zeros(4), torch.zeros(4)))
    return replace(
        tiny_patch(tiny_base("qwen3_moe"), [1]),
        kind="bypass",
        base=base.fingerprint([bypass.config.layer]),
        layers={},
        hyperparameters=hyperparameters,
        bypass=tensors,
    )


def logits_of(base: Base, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return base.model(input_ids=ids, attention_mask=mask).logits


def prompts(count: int = 5, seed: int = 0) -> list[Tensor]:
    """Prompts of different lengths, (1, S) each."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(4, 260, (1, 4 + 2 * i), generator=generator) for i in range(count)]


def left_padded(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    longest = max(row.shape[1] for row in rows)
    ids = torch.cat([torch.nn.functional.pad(row, (longest - row.shape[1], 0), value=PAD) for row in rows])
    mask = torch.cat(
        [torch.nn.functional.pad(torch.ones_like(row), (longest - row.shape[1], 0)) for row in rows]
    )
    return ids, mask


def one_by_one(base: Base, prompt: Tensor, count: int) -> list[int]:
    """Greedy tokens from full passes without a cache, with the end of the prompt declared."""
    ids = prompt
    with prompt_lengths([prompt.shape[1]]):
        for _ in range(count):
            last = logits_of(base, ids)[:, -1]
            last[:, EOS] = -torch.inf  # `generated` goes on to a fixed length as well
            ids = torch.cat([ids, last.argmax(-1, keepdim=True)], dim=1)
    return ids[0, prompt.shape[1] :].tolist()


def generated(base: Base, ids: Tensor, mask: Tensor, count: int, **options: Any) -> list[list[int]]:
    out = base.model.generate(
        ids, attention_mask=mask, max_new_tokens=count, min_new_tokens=count, do_sample=False, **options
    )
    return out[:, ids.shape[1] :].tolist()

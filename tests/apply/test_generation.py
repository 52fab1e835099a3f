"""However `generate()` runs its passes, a bypass chooses an expert from whole prompts and nothing else."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from moe_patch.apply import apply
from moe_patch.bypass import Bypass, prompt_lengths
from moe_patch.errors import BypassError
from moe_patch.versions import cache_name, returned_cache
from tests.apply.bypassed import base_of, generated, left_padded, logits_of, one_by_one, patch_of, prompts
from tests.bypass.bypasses import random_bypass

COUNT = 8


def strong_bypass(strength: float = 1.0, **changes: Any) -> Bypass:
    """A bypass with an output much larger than the block's: it grows with the third power of `strength`."""
    bypass = random_bypass(scale=1.0, scope_gate=False, **changes)
    for weight in bypass.experts.parameters():
        weight.mul_(strength)
    return bypass


class _Double:
    """The module `torch` for norms, which compute in fp32 for inputs of any dtype."""

    def __getattr__(self, name: str) -> Any:
        return torch.float64 if name == "float32" else getattr(torch, name)


@torch.no_grad()
def continued(model: nn.Module, ids: Tensor, mask: Tensor, said: Tensor) -> Tensor:
    """Logits (B, T, V) from which `said` (B, T) follows prompts (B, S), one token a pass, with a cache."""
    positions = (mask.cumsum(1) - 1).clamp(min=0)  # (B, S)
    inputs: dict[str, Any] = {"input_ids": ids, "position_ids": positions}
    logits = []
    for token in said.T:
        output = model(**inputs, attention_mask=mask, use_cache=True)
        logits.append(output.logits[:, -1])
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        inputs = {
            "input_ids": token[:, None],
            "position_ids": mask.sum(1, keepdim=True) - 1,
            cache_name(model.forward): returned_cache(output),
        }
    return torch.stack(logits, dim=1)


@pytest.mark.parametrize("strength", [1.0, 100.0])
@pytest.mark.parametrize("model_type", ["qwen3_moe", "gpt_oss"])
def test_a_cache_gives_what_a_full_pass_gives_to_the_precision_of_fp64(
    monkeypatch: pytest.MonkeyPatch, model_type: str, strength: float
) -> None:
    base = base_of(model_type)
    patch = patch_of(base, strong_bypass(strength, tokens="all"))
    base.model.double().set_experts_implementation("eager")
    monkeypatch.setattr(sys.modules[type(base.model).__module__], "torch", _Double())
    rows = prompts()
    ids, mask = left_padded(rows)
    with apply(base, patch, check=False):
        said = torch.tensor(generated(base, ids, mask, COUNT))  # (B, T)
        assert said.tolist() == [one_by_one(base, row, COUNT) for row in rows]
        cached = continued(base.model, ids, mask, said)
        assert cached.dtype == torch.float64
        for row, answer, found in zip(rows, said, cached, strict=True):
            with prompt_lengths([row.shape[1]]):
                whole = logits_of(base, torch.cat([row, answer[None]], dim=1))[0]
            expected = whole[row.shape[1] - 1 : -1]
            assert (found - expected).abs().max() < 1e-12 * expected.abs().max()


WAYS: list[dict[str, Any]] = [
    {},
    {"use_cache": False},
    {"cache_implementation": "static"},
    {"prefill_chunk_size": 64},
    {"prompt_lookup_num_tokens": 3},
]


@pytest.mark.parametrize("kind", [{}, {"tokens": "last"}, {"router_states": "final"}])
@pytest.mark.parametrize("way", WAYS)
def test_ways_of_generating_say_the_same(way: dict[str, Any], kind: dict[str, Any]) -> None:
    base = base_of()
    rows = [torch.cat([row, row], dim=1) for row in prompts()]  # in which a look-up finds something
    with apply(base, patch_of(base, strong_bypass(**kind))):
        expected = [one_by_one(base, row, COUNT) for row in rows]
        assert [generated(base, row, torch.ones_like(row), COUNT, **way)[0] for row in rows] == expected


def test_guesses_have_no_say_in_the_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    base, row = base_of(), torch.tensor([[9, 8, 7, 9, 8, 7, 9, 8]])
    route, seen = Bypass.route, []

    def spied(bypass: Bypass, states: Tensor, prompt: Tensor) -> Tensor:
        seen.append((states.shape[1], int(prompt.sum())))
        return route(bypass, states, prompt)

    monkeypatch.setattr(Bypass, "route", spied)
    with apply(base, patch_of(base, strong_bypass())):
        generated(base, row, torch.ones_like(row), COUNT, prompt_lookup_num_tokens=3)
    ((length, prompt),) = seen
    assert length > row.shape[1] == prompt


def test_beams_of_a_batch_say_what_they_say_alone() -> None:
    base, rows = base_of(), prompts()
    with apply(base, patch_of(base, strong_bypass())):
        alone = [generated(base, row, torch.ones_like(row), COUNT, num_beams=3)[0] for row in rows]
        assert generated(base, *left_padded(rows), COUNT, num_beams=3) == alone


@pytest.mark.parametrize("where", ["argument", "config", "model"])
def test_prompts_in_pieces_are_refused(where: str) -> None:
    base, row = base_of(), prompts()[-1]
    options: dict[str, Any] = {"max_new_tokens": 2, "prefill_chunk_size": 4}
    if where == "config":
        options = {"generation_config": GenerationConfig(**options)}
    elif where == "model":
        base.model.generation_config.prefill_chunk_size = options.pop("prefill_chunk_size")
    refused = pytest.raises(
        BypassError, match=r"12 tokens came in pieces, the first of 4.*prefill_chunk_size"
    )
    with apply(base, patch_of(base, strong_bypass())), refused:
        base.model.generate(row, **options)
    assert base.model.generate(row, **options).shape[1] > row.shape[1]


def test_guidance_by_a_pass_without_the_prompt_is_refused() -> None:
    base, row = base_of(), prompts()[-1]
    with apply(base, patch_of(base, strong_bypass())), pytest.raises(BypassError, match="guidance_scale"):
        base.model.generate(row, max_new_tokens=2, guidance_scale=1.5)


def test_embedded_prompts_are_prompts_too() -> None:
    base, row = base_of(), prompts()[-1]
    embedded = base.model.get_input_embeddings()(row)
    with apply(base, patch_of(base, strong_bypass())):
        expected = one_by_one(base, row, COUNT)
        said = base.model.generate(
            inputs_embeds=embedded, max_new_tokens=COUNT, min_new_tokens=COUNT, do_sample=False
        )
        assert said[0].tolist() == expected

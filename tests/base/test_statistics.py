"""Second moments against brute force, one text at a time; when the cache is used, and when not."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from tokenizers import normalizers
from torch import Tensor
from torch.nn import functional

from moe_patch.apply import apply
from moe_patch.base.model import Base
from moe_patch.base.statistics import collect_moments
from moe_patch.data.corpus import Corpus
from moe_patch.data.facts import Fact
from moe_patch.errors import ModelError, StatisticsError
from moe_patch.patch import LayerDelta, Patch
from moe_patch.patch.rows import sort_rows
from moe_patch.solve.moments import Moments
from tests.tiny import tiny_base

CORPUS = Corpus(
    "small", ("Paris is the capital of France.", "Rome.", "The currency of Japan is the yen.", "Lima, Peru")
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOE_PATCH_CACHE", str(tmp_path))
    return tmp_path


def brute_force(base: Base, layer: int, texts: tuple[str, ...]) -> tuple[Tensor, list[int]]:
    """Sums of k k^T and token counts from the eager model, one text at a time, so without padding."""
    experts: Any = base.layer(layer).experts
    heard: list[tuple[Tensor, Tensor]] = []
    hook = experts.register_forward_pre_hook(lambda _, inputs: heard.append((inputs[0], inputs[1])))
    for text in texts:
        base.model(torch.tensor([base.tokenizer(text)["input_ids"]]))
    hook.remove()
    d_key = base.layer(layer).d_key
    second, tokens = (
        torch.zeros(experts.num_experts, d_key, d_key, dtype=torch.float64),
        [0] * experts.num_experts,
    )
    for hidden, index in heard:
        for inputs, chosen in zip(hidden, index, strict=True):
            for expert in chosen.tolist():
                gate, up = (experts.gate_up_proj[expert] @ inputs).chunk(2)
                key = (functional.silu(gate) * up).double().detach()
                second[expert] += torch.outer(key, key)
                tokens[expert] += 1
    return second, tokens


@pytest.mark.parametrize("batch_tokens", [1, 40, 10_000])
def test_moments_equal_brute_force_however_the_text_is_batched(batch_tokens: int) -> None:
    base = tiny_base("qwen3_moe")
    collected = collect_moments(base, CORPUS, [2, 0], batch_tokens=batch_tokens, use_cache=False)
    assert list(collected) == [0, 2]
    for layer, moments in collected.items():
        second, tokens = brute_force(base, layer, CORPUS.texts)
        assert moments.tokens.tolist() == tokens
        assert sum(tokens) == 3 * sum(len(text) for text in CORPUS.texts)  # top-3, one token per byte
        torch.testing.assert_close(moments.second.double(), second, rtol=1e-4, atol=1e-5)


def test_the_mean_is_over_the_tokens_that_reached_the_expert() -> None:
    moments = Moments(0, torch.stack([4 * torch.eye(2), torch.zeros(2, 2)]), torch.tensor([8, 0]))
    assert torch.equal(moments.mean(0), 0.5 * torch.eye(2, dtype=torch.float64))
    assert moments.mean(1).isnan().all()


def test_transposed_experts_and_bf16_weights_accumulate_in_fp32() -> None:
    base = tiny_base("gpt_oss")
    exact = collect_moments(base, CORPUS, [1], use_cache=False)[1]
    base.model.bfloat16()
    coarse = collect_moments(base, CORPUS, [1], use_cache=False)[1]
    assert coarse.second.dtype is torch.float32
    assert int(coarse.tokens.sum()) == int(exact.tokens.sum())
    total = exact.second.sum(0)
    assert (coarse.second.sum(0) - total).norm() < 0.1 * total.norm()


def test_the_token_budget_is_kept_and_progress_ends_at_it() -> None:
    seen: list[tuple[int, int]] = []
    base = tiny_base("qwen3_moe")
    moments = collect_moments(
        base,
        CORPUS,
        [0],
        max_tokens=40,
        length=16,
        batch_tokens=16,
        use_cache=False,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert int(moments[0].tokens.sum()) == 40 * 3
    assert seen[-1] == (40, 40)
    assert len(seen) > 1
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_no_tokens_and_no_such_layer_are_refused() -> None:
    base = tiny_base("qwen3_moe")
    with pytest.raises(StatisticsError, match="no tokens"):
        collect_moments(base, CORPUS, [0], max_tokens=0, use_cache=False)
    with pytest.raises(ModelError, match="out of range"):
        collect_moments(base, CORPUS, [3])


@pytest.mark.parametrize("mode", ["merge", "hook"])
def test_a_patched_model_is_refused_since_its_keys_are_not_the_bases(mode: Literal["merge", "hook"]) -> None:
    base = tiny_base("qwen3_moe")
    rows = sort_rows(torch.randn(1, 24), torch.tensor([2]), torch.tensor([0]), num_facts=1)
    delta = LayerDelta.from_solution(torch.randn(1, 32), rows, residual=None, ridge=1.0)
    fact = Fact("a", "The capital of {} is", "France", "Rome")
    patch = Patch("delta", "test", {}, base.fingerprint([0]), (fact,), (), {0: delta})
    with apply(base, patch, mode=mode), pytest.raises(StatisticsError, match="has a patch on"):
        collect_moments(base, CORPUS, [1])
    collect_moments(base, CORPUS, [1])
    with apply(base, patch, mode=mode):
        assert not ran(base)


def ran(base: Base, corpus: Corpus = CORPUS, layers: tuple[int, ...] = (1,), **options: Any) -> bool:
    """Collect the moments, and return whether the model had to run."""
    calls: list[tuple[int, int]] = []
    collect_moments(base, corpus, layers, progress=lambda *call: calls.append(call), **options)
    return bool(calls)


def test_the_cache_gives_the_same_moments_without_running_the_model() -> None:
    base = tiny_base("qwen3_moe")
    fresh = collect_moments(base, CORPUS, [1])[1]
    assert not ran(base)
    assert not ran(tiny_base("qwen3_moe"), replace(CORPUS, name="renamed"))
    cached = collect_moments(base, CORPUS, [1])[1]
    assert cached.layer == 1
    assert torch.equal(cached.second, fresh.second)
    assert torch.equal(cached.tokens, fresh.tokens)


def test_whatever_changes_the_moments_changes_their_address() -> None:
    base = tiny_base("qwen3_moe")
    assert ran(base)
    assert ran(base, Corpus("small", CORPUS.texts[:-1]))
    assert ran(base, layers=(2,))
    assert ran(base, max_tokens=20)
    assert ran(base, length=8)
    assert ran(tiny_base("qwen3_moe", seed=1))
    assert ran(tiny_base("qwen3_moe", rope_theta=77.0))
    below = tiny_base("qwen3_moe")
    with torch.no_grad():
        below.layer(0).down(0).mul_(1.5)
    assert ran(below)
    attending = tiny_base("qwen3_moe")
    above = tiny_base("qwen3_moe")
    with torch.no_grad():
        attending.model.model.layers[0].self_attn.q_proj.weight.mul_(1.01)
        above.model.model.layers[2].self_attn.q_proj.weight.mul_(1.01)
    assert ran(attending)
    assert not ran(above)
    coarse = tiny_base("qwen3_moe")
    coarse.model.bfloat16()
    assert ran(coarse)
    lower = tiny_base("qwen3_moe")
    lower.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert ran(lower)
    assert not ran(base)


def test_only_layers_that_are_not_cached_are_collected(folder: Path) -> None:
    base = tiny_base("qwen3_moe")
    together = collect_moments(base, CORPUS, [0, 2], use_cache=False)
    assert not list(folder.iterdir())
    ran(base, layers=(2,))
    mixed = collect_moments(base, CORPUS, [0, 2])
    assert len(list((folder / "moments").iterdir())) == 2
    for layer in (0, 2):
        torch.testing.assert_close(mixed[layer].second, together[layer].second)


def test_a_damaged_entry_is_collected_again_and_said_so(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = tiny_base("qwen3_moe")
    fresh = collect_moments(base, CORPUS, [1])[1]
    (entry,) = (folder / "moments").iterdir()
    entry.write_bytes(entry.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        assert ran(base)
    assert str(entry) in caplog.text
    assert not ran(base)
    assert torch.equal(collect_moments(base, CORPUS, [1])[1].second, fresh.second)

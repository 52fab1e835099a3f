"""LoRA and AdaLoRA: a patch adds what PEFT's adapters do, facts are learned, and the base stays."""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from moe_patch.apply import apply
from moe_patch.base.model import Base
from moe_patch.data.prompts import encode_fact
from moe_patch.errors import ConfigError
from moe_patch.evaluation.scoring import score_answers
from moe_patch.export.lora import to_lora
from moe_patch.methods import get_method
from moe_patch.methods.rivals import adapter_training
from moe_patch.methods.rivals.adapted_experts import ADAPTER, AdaptedExperts, ExpertShapes
from moe_patch.methods.rivals.adapter_training import reached_experts
from moe_patch.patch import Patch, load, save
from tests.methods.builds import facts, snapshot, unchanged
from tests.tiny import tiny_base

METHODS = ("lora", "adalora")
QUICK: dict[str, Any] = {"layers": (0, 1), "steps": 12, "learning_rate": 4e-2}


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base("qwen3_moe")


def build(base: Base, method: str, count: int = 3, **options: Any) -> Patch:
    chosen = get_method(method)
    return chosen.build(base, facts(count), chosen.options(**QUICK | options))


def losses(base: Base, count: int = 3) -> list[float]:
    asked = [(fact.text, fact.target_new) for fact in facts(count)]
    return [-score.logprob for score in score_answers(base, asked)]


@pytest.mark.parametrize("method", METHODS)
def test_facts_are_learned_and_the_base_keeps_every_bit(base: Base, method: str, tmp_path: Path) -> None:
    before, config = snapshot(base), base.model.config.to_dict()
    names = [name for name, _ in base.model.named_modules()]
    alone = losses(base)
    patch = build(base, method)
    assert unchanged(base, before)
    assert base.model.config.to_dict() == config
    assert [name for name, _ in base.model.named_modules()] == names
    assert all(parameter.requires_grad for parameter in base.model.parameters())
    save(patch, tmp_path / "a.safetensors")
    with apply(base, load(tmp_path / "a.safetensors"), mode="hook"):
        patched = losses(base)
    assert all(now < 0.5 * was for now, was in zip(patched, alone, strict=True))
    assert [result["loss_before"] for result in patch.results] == pytest.approx(alone, abs=1e-3)
    assert [result["loss_edited"] for result in patch.results] == pytest.approx(patched, abs=1e-3)
    assert losses(base) == alone


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model_type", ["qwen3_moe", "gpt_oss"])  # (E, d_m, d_k) and (E, d_k, d_m)
def test_the_delta_is_what_peft_would_add_to_the_weights(method: str, model_type: str) -> None:
    base = tiny_base(model_type)
    chosen = get_method(method)
    layers = [base.layer(0), base.layer(2)]
    shapes = ExpertShapes(layers, {0: [0, 2, 3], 2: [1]})
    chosen.adapter(shapes, chosen.options(rank=2, steps=9), 9)
    with torch.no_grad():
        for weight in (one for one in shapes.parameters() if one.requires_grad):
            weight.normal_(std=0.3)
    adapted = AdaptedExperts(base, shapes, chosen.factors)
    changed = tiny_base(model_type)
    with torch.no_grad():
        for (layer, expert), linear in zip(shapes.places, shapes.linears, strict=True):
            changed.layer(layer).down(expert).add_(linear.get_delta_weight(ADAPTER))
    ids = torch.randint(4, 200, (2, 9))
    with adapted.on():
        found = base.model(ids).logits
    expected = changed.model(ids).logits
    assert not torch.allclose(base.model(ids).logits, expected, atol=1e-3)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_a_lora_patch_has_the_rank_and_exports_without_loss(base: Base) -> None:
    patch = build(base, "lora", rank=3)
    assert {delta.rank(expert) for delta in patch.layers.values() for expert in delta.experts()} == {3}
    adapter = to_lora(patch, base)
    assert (adapter.rank, adapter.needed) == (3, 3)


def test_adalora_ends_with_its_budget_of_ranks_unevenly_shared(base: Base) -> None:
    patch = build(base, "adalora", rank=2, initial_rank=4)
    ranks = [delta.rank(expert) for delta in patch.layers.values() for expert in delta.experts()]
    reached = reached_experts(
        base,
        [encode_fact(base.reader, fact, get_method("adalora").options().style) for fact in facts(3)],
        [0, 1],
    )
    budget = 2 * sum(map(len, reached.values()))
    assert sum(ranks) <= budget
    assert sum(ranks) > budget // 2
    assert len(set(ranks)) > 1
    assert max(ranks) <= 4


def test_a_batch_starts_from_where_the_one_before_it_ended(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    everyone = {layer: list(range(base.layer(layer).num_experts)) for layer in (0, 1)}
    monkeypatch.setattr(adapter_training, "reached_experts", lambda *_: everyone)
    first = build(base, "lora", 2)
    both = build(base, "lora", 4, batch_size=2)
    with apply(base, first, mode="hook"):
        between = losses(base, 4)
    found = [result["loss_before"] for result in both.results]
    assert found[2:] == pytest.approx(between[2:], abs=1e-3)
    assert found[:2] == pytest.approx(losses(base, 4)[:2], abs=1e-3)


def test_only_experts_that_texts_reach_are_adapted(base: Base) -> None:
    prompt = encode_fact(base.reader, facts(1)[0], get_method("lora").options().style)
    seen: set[int] = set()
    router = base.decoder_layers[0].mlp.gate
    hook = router.register_forward_hook(lambda _module, _inputs, out: seen.update(out[-1].flatten().tolist()))
    base.model(torch.tensor([prompt.ids]))
    hook.remove()
    assert reached_experts(base, [prompt], [0]) == {0: sorted(seen)}


def test_training_ends_when_the_loss_is_small_enough(base: Base) -> None:
    patch = build(base, "lora", 1, stop_loss=100.0)
    assert patch.results[0]["epochs"] == 1
    assert not any(delta.experts() for delta in patch.layers.values())


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_patch_and_leaves_the_generator(base: Base, method: str) -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    one, two = (build(base, method, 1, steps=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, two.tensors()[name]) for name, a in one.tensors().items())
    other = build(base, method, 1, steps=3, seed=1)
    assert any(not torch.equal(a, other.tensors()[name]) for name, a in one.tensors().items())


def test_a_schedule_without_steps_to_take_ranks_is_refused() -> None:
    with pytest.raises(ValueError, match="no step"):
        get_method("adalora").options(warmup=0.5, settling=0.5)
    with pytest.raises(ValueError, match="below the rank"):
        get_method("adalora").options(rank=16)


def test_without_peft_it_says_what_to_install(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"moe-patch\[peft\]"):
        build(base, "lora", 1)


def test_half_precision_trains_adapters_in_full(base: Base) -> None:
    half = deepcopy(base)
    half.model.to(torch.bfloat16)
    patch = build(half, "lora", 2)
    assert all(tensor.dtype in (torch.float32, torch.int32) for tensor in patch.tensors().values())
    assert all(float(result["loss_edited"]) < float(result["loss_before"]) for result in patch.results)

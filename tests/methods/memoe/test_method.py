"""MEMoE from facts to a patch: new answers are given, earlier ones kept, other prompts left alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from moe_patch.apply import apply
from moe_patch.base.model import Base
from moe_patch.base.opening import wrap
from moe_patch.bypass import LEAVE_ALONE, Bypass, read_bypass, read_routed
from moe_patch.data.corpus import Corpus
from moe_patch.elicit.own_text import NAME, own_prose
from moe_patch.errors import ConfigError, ModelError
from moe_patch.methods import get_method
from moe_patch.patch import Patch, load, save
from tests.margins import at_least, at_most
from tests.taught import ANSWERS, SUBJECTS, answer, edit, said, taught_base
from tests.tiny import tiny_model, tiny_tokenizer

EDITED = ("Carl", "Gus", "Liz", "Ida")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    others = [subject for subject in SUBJECTS if subject not in EDITED]
    path.write_text(
        "\n".join(f"{prompt.format(name)} {answer(prompt, name)}." for prompt in ANSWERS for name in others)
    )
    return path


def options(corpus: Path | None, **changes: Any) -> Any:
    values: dict[str, Any] = {
        "layer": 2,
        "corpus": corpus,
        "steps": 80,
        "learning_rate": 1e-2,
        "expert_width": 16,
        "adapter_width": 32,
        "variants": 6,
    }
    return get_method("memoe").options(**values | changes)


def build(corpus: Path | None, subjects: tuple[str, ...] = EDITED, **changes: Any) -> Patch:
    facts = [edit(subject) for subject in subjects]
    return get_method("memoe").build(taught_base(), facts, options(corpus, **changes))


def holds(base: Base, subjects: tuple[str, ...] = EDITED) -> bool:
    """Whether the model gives the new answers; what follows an answer does not count."""
    answers = said(base, [edit(subject).text for subject in subjects])
    return all(found.startswith(edit(name).target_new) for found, name in zip(answers, subjects, strict=True))


def loss_left(patch: Patch) -> float:
    """The largest share of its loss that a fact still has."""
    return max(result["loss_expert"] / result["loss_before"] for result in patch.results)


def surest(bypass: Bypass, prompts: Sequence[str]) -> tuple[list[int], float]:
    """The routes of prompts, and the lowest probability that the router gives to one of them."""
    base, read = taught_base(), []
    block = base.decoder_layers[bypass.config.layer].mlp

    def route(_module: object, inputs: tuple[torch.Tensor, ...], _output: object) -> None:
        real = torch.ones(inputs[0].shape[:2], dtype=torch.bool)
        read.append((bypass.route(inputs[0], real).item(), bypass.router(inputs[0], real).softmax(-1).max()))

    hook = block.register_forward_hook(route)
    with torch.no_grad():
        for prompt in prompts:
            base.model(base.tokenizer(prompt, return_tensors="pt")["input_ids"])
    hook.remove()
    routes, likely = zip(*read, strict=True)
    return list(routes), float(min(likely))


@cache
def built(corpus: Path) -> Patch:
    return build(corpus)


@pytest.mark.quality
def test_it_says_the_facts_and_the_base_is_left_as_it_was(corpus: Path, tmp_path: Path) -> None:
    base, patch = taught_base(), built(corpus)
    prompts = [edit(subject).text for subject in EDITED]
    before = said(base, prompts)
    save(patch, tmp_path / "patch.safetensors")
    with apply(base, load(tmp_path / "patch.safetensors")):
        assert holds(base)
    assert said(base, prompts) == before
    at_least("smallest loss before", min(result["loss_before"] for result in patch.results), 0.2)
    at_most("largest loss when edited", max(result["loss_edited"] for result in patch.results), 0.2)
    assert not any(module._forward_hooks for module in base.model.modules())
    assert all(parameter.requires_grad for parameter in base.model.parameters())


@pytest.mark.quality
def test_a_preserved_prompt_gets_the_bases_logits_bit_for_bit(corpus: Path) -> None:
    base, patch = taught_base(), built(corpus)
    prompts = [f"{name} eats" for name in SUBJECTS if name not in EDITED]
    ids = [base.tokenizer(prompt, return_tensors="pt")["input_ids"] for prompt in prompts]
    with torch.no_grad():
        before = [base.model(one).logits for one in ids]
        with apply(base, patch):
            after = [base.model(one).logits for one in ids]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    routes, likely = surest(read_bypass(patch), prompts)
    assert set(routes) == {LEAVE_ALONE}
    at_least("probability of the least likely route taken", likely, 0.5)


@pytest.mark.quality
def test_facts_are_divided_and_the_router_follows(corpus: Path) -> None:
    patch = built(corpus)
    routed, bypass = read_routed(patch), read_bypass(patch)
    assert torch.bincount(routed.expert.long(), minlength=5).tolist()[0] == 1  # 30% of four
    assert torch.bincount(routed.expert.long(), minlength=5)[1:].max() == 1
    assert [result["expert"] for result in patch.results] == routed.expert.tolist()
    seen, likely = surest(bypass, [edit(subject).text for subject in EDITED])
    assert seen == routed.expert.tolist()
    assert LEAVE_ALONE not in seen
    at_least("probability of the least likely route taken", likely, 0.5)


@pytest.mark.quality
@pytest.mark.slow
def test_later_batches_keep_earlier_facts_by_replay(corpus: Path, tmp_path: Path) -> None:
    base = taught_base()
    patch = build(corpus, batch_size=2)
    with apply(base, patch):
        assert holds(base)
    first = build(corpus, EDITED[:2])
    save(first, tmp_path / "first.safetensors")
    both = build(corpus, EDITED[2:], start=tmp_path / "first.safetensors")
    assert both.parents == (first.hash,)
    assert [fact.subject for fact in both.facts] == list(EDITED)
    assert read_routed(both).expert[:2].tolist() == read_routed(first).expert.tolist()
    with apply(base, both):
        assert holds(base)
    at_most("largest loss when edited", max(result["loss_edited"] for result in both.results), 0.7)
    with pytest.raises(ConfigError, match="another bypass"):
        build(corpus, EDITED[2:], start=tmp_path / "first.safetensors", expert_width=8)
    with pytest.raises(ConfigError, match="has a fact 'Carl"):
        build(corpus, EDITED[:1], start=tmp_path / "first.safetensors")


@pytest.mark.quality
@pytest.mark.slow
@pytest.mark.parametrize(
    "ablation",
    [
        {"single": True},
        {"division": False},
        {"router": "mlp"},
        {"adaptive": False},
        {"balance": False},
        {"router_loss": False, "steps": 40},  # it has to find out by itself whom to send them to
        {"scope_gate": False, "tokens": "last"},
        {"router_states": "final"},
    ],
    ids=str,
)
def test_every_ablation_still_says_the_facts_to_its_own_experts(corpus: Path, ablation) -> None:
    patch = build(corpus, EDITED[:2], **{"steps": 20, "variants": 2} | ablation)
    at_most("share of the loss that is left", loss_left(patch), 0.7)
    config = read_bypass(patch).config
    assert config.experts == (1 if "single" in ablation else 5)
    assert config.expert_width == (80 if "single" in ablation else 16)
    assert config.scope_gate == ablation.get("scope_gate", True)


def test_builds_repeat(corpus: Path) -> None:
    first, second = (build(corpus, EDITED[:1], steps=3) for _ in range(2))
    assert all(torch.equal(first.bypass[name], second.bypass[name]) for name in first.bypass)


def test_without_text_the_base_writes_its_own_where_it_is_needed() -> None:
    patch = build(None, EDITED[:1], steps=2, scope_gate=False, balance=False)
    assert patch.hyperparameters["corpus_hash"] is None
    assert patch.hyperparameters["preserved_text"] is None
    patch = build(None, EDITED[:1], steps=2, preserved=6)
    own = Corpus(NAME, own_prose(taught_base(), 6))
    assert patch.hyperparameters["corpus_hash"] == own.hash
    assert patch.hyperparameters["preserved_text"] == {"source": "own"}


def test_layers(corpus: Path) -> None:
    assert options(corpus, layer=[1]).layer == 1
    with pytest.raises(ValueError, match="one layer, not 2"):
        options(corpus, layer=[1, 2])
    with pytest.raises(ConfigError, match="name one with --layers"):
        build(corpus, layer=None)
    with pytest.raises(ModelError, match="out of range"):
        build(corpus, layer=9)


@pytest.mark.quality
@pytest.mark.parametrize("model_type", ["llama", "qwen3", "bloom"])
def test_dense_models(corpus: Path, model_type: str, tmp_path: Path) -> None:
    base = wrap(tiny_model(model_type), tiny_tokenizer(), model_type, allow_dense=True)
    facts = [edit(subject) for subject in EDITED[:2]]
    patch = get_method("memoe").build(base, facts, options(corpus, layer=1, steps=20, variants=2))
    save(patch, tmp_path / "dense.safetensors")
    assert load(tmp_path / "dense.safetensors").base.shapes == {
        1: (1, 32, 128 if model_type == "bloom" else 48)
    }
    at_most("share of the loss that is left", loss_left(patch), 0.7)
    with apply(base.model, patch):
        pass

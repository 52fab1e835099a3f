"""UltraEdit's builds: what it takes from a pass, and turns against the published formula."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import moe_patch
from moe_patch.base.experts import attach_matrices
from moe_patch.base.model import Base
from moe_patch.base.opening import wrap
from moe_patch.data.prompts import Prompt, PromptStyle, encode_fact, pad_right
from moe_patch.errors import ConfigError
from moe_patch.methods import get_method
from moe_patch.methods.rivals.ultraedit import gradient_pairs
from moe_patch.patch import Patch, load, save
from moe_patch.targets.answers import Answers
from tests.methods.builds import facts, snapshot, unchanged
from tests.tiny import dense_delta, tiny_base

STYLE = PromptStyle(fact_token="last")


def build(base: Base, count: int = 4, **options: Any) -> Patch:
    method = get_method("ultraedit")
    return method.build(base, facts(count), method.options(**({"layers": (0, 1)} | options)))


def prompts_of(base: Base, count: int = 4) -> list[Prompt]:
    return [encode_fact(base.reader, fact, STYLE) for fact in facts(count)]


def weight_gradients(base: Base, prompts: list[Prompt], layer: int) -> Tensor:
    """(E, d_m, d_k) of the sum of the prompts' losses, by autograd on the down projections themselves."""
    experts, out, width = base.layer(layer).shape
    matrices = {expert: torch.zeros(out, width, requires_grad=True) for expert in range(experts)}
    batch, answers = pad_right(prompts, 0), Answers.of(prompts)
    with attach_matrices(base.layer(layer), matrices):
        logits = base.model(input_ids=batch.ids, attention_mask=batch.mask).logits
        answers.nll(logits[answers.reads.row, answers.reads.index]).sum().backward()
    zero = torch.zeros(out, width)
    return torch.stack([zero if matrix.grad is None else matrix.grad for matrix in matrices.values()])


def test_keys_and_gradients_of_all_tokens_make_the_gradients_of_the_weights() -> None:
    base = tiny_base("qwen3_moe")
    prompts = prompts_of(base)
    found, losses = gradient_pairs(base, prompts, [0, 2], "all")
    assert len(losses) == 4
    for layer in (0, 2):
        pairs = found[layer]
        assert len(pairs.key) == 3 * sum(len(prompt.ids) for prompt in prompts)  # top-3
        total = torch.zeros(base.layer(layer).shape)
        total.index_add_(0, pairs.expert, pairs.gradient[:, :, None] * pairs.key[:, None, :])
        torch.testing.assert_close(total, weight_gradients(base, prompts, layer), atol=1e-5, rtol=1e-3)


def test_of_the_answer_only_tokens_that_predict_it_take_part() -> None:
    base = tiny_base("qwen3_moe")
    prompts = prompts_of(base)
    found, _ = gradient_pairs(base, prompts, [1], "answer")
    assert all(prompt.target is not None for prompt in prompts)
    assert len(found[1].key) == 3 * sum(len(prompt.ids) - (prompt.target or 0) for prompt in prompts)


def test_two_turns_are_the_published_algorithm_expert_by_expert() -> None:
    """Written out: statistics over all features so far, shifts, one dense ridge solve for each module."""
    base, rate, ridge = tiny_base("qwen3_moe"), 1e-2, 0.5
    options = {"units": "published", "learning_rate": rate, "ridge": ridge, "ridge_relative": False}
    patch = build(base, batch_size=2, **options)
    edited, prompts = wrap(copy.deepcopy(base.model), base.tokenizer), prompts_of(base)
    features = torch.zeros(0, base.layer(0).d_key + base.hidden_size, dtype=torch.float64)
    total = {layer: torch.zeros(base.layer(layer).shape, dtype=torch.float64) for layer in (0, 1)}
    for turn in (prompts[:2], prompts[2:]):
        found, _ = gradient_pairs(edited, turn, [0, 1], "all")
        fresh = [torch.cat([pairs.key, pairs.gradient], 1).double() for pairs in found.values()]
        features = torch.cat([features, *fresh])
        mean, deviation = features.mean(0), features.std(0)
        for layer, pairs in found.items():
            width = pairs.key.shape[1]
            normal = (torch.cat([pairs.key, pairs.gradient], 1).double() - mean) / (deviation + 2**-23)
            shift = -rate * normal[:, :width].square().sum(1, keepdim=True) * normal[:, width:]
            for expert in range(base.layer(layer).num_experts):
                own = pairs.expert == expert
                keys = pairs.key[own].double()  # (n, d_k)
                system = keys.T @ keys + ridge * torch.eye(width, dtype=torch.float64)
                total[layer][expert] += torch.linalg.solve(system, keys.T @ shift[own]).T
        for layer in (0, 1):
            with edited.layer(layer).weights() as weights, base.layer(layer).weights() as bare:
                weights.copy_(bare + total[layer].float())
    for layer in (0, 1):
        delta = dense_delta(patch.layers[layer], base.layer(layer)).double()
        assert float((delta - total[layer]).norm() / total[layer].norm()) < 1e-2


def test_an_edit_makes_the_answers_likelier_and_the_base_stays(tmp_path: Path) -> None:
    base = tiny_base("qwen3_moe")
    before = snapshot(base)
    patch = build(base, learning_rate=0.3)
    assert unchanged(base, before)
    assert not any(module._forward_hooks for module in base.model.modules())
    for result in patch.results:
        assert float(str(result["loss_edited"])) < float(str(result["loss_before"]))
    save(patch, tmp_path / "p.safetensors")
    assert load(tmp_path / "p.safetensors").hash == patch.hash
    prompts = [fact.text for fact in facts(4)]
    with torch.no_grad(), moe_patch.apply(base, patch):
        inputs = base.tokenizer(prompts[0], return_tensors="pt")
        changed = base.model(**inputs).logits
    assert not torch.allclose(changed, base.model(**inputs).logits)


def test_a_patch_holds_its_facts_rows_and_what_was_said_of_them() -> None:
    patch = build(tiny_base("qwen3_moe"), 3, batch_size=2)
    delta = patch.layers[0]
    assert delta.fact_rows.num_facts == 3
    assert delta.residual is None
    assert len(delta.left) == len(delta.rows.value)
    assert patch.hyperparameters["units"] == "output"
    assert get_method("ultraedit").rival


def test_the_size_of_passes_changes_nothing() -> None:
    base = tiny_base("qwen3_moe")
    one, all_ = (build(base, facts_per_pass=count).layers[1] for count in (1, 10))
    first, second = (dense_delta(delta, base.layer(1)) for delta in (one, all_))
    assert float((first - second).norm() / second.norm()) < 1e-2


def test_what_cannot_be_built() -> None:
    base, method = tiny_base("qwen3_moe"), get_method("ultraedit")
    with pytest.raises(ConfigError, match="no facts"):
        method.build(base, [], method.options(layers=(0,)))
    with pytest.raises(ConfigError, match="no edit layers"):
        method.build(base, facts(1), method.options())

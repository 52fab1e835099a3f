"""Building with MoEEdit from facts to patch, against the mathematics written out densely."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

import moe_patch
from moe_patch.base.capture import capture_keys
from moe_patch.base.model import Base
from moe_patch.base.opening import wrap
from moe_patch.base.statistics import collect_moments
from moe_patch.data.corpus import Corpus
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import Prompt, encode_fact
from moe_patch.errors import ConfigError, ModelError, TargetError
from moe_patch.methods import get_method
from moe_patch.patch import Patch, load, save
from moe_patch.solve.nullspace import NullSpace, null_space
from moe_patch.targets.groups import context_prefixes
from moe_patch.targets.options import TargetOptions
from moe_patch.targets.search import find_targets, target_losses
from tests.margins import at_least, at_most
from tests.methods.builds import corpus, facts, snapshot, unchanged
from tests.taught import ANSWERS, STRONG, answer, edit, said, taught_base
from tests.tiny import dense_delta, tiny_base

WEAK = {"steps": 4, "learning_rate": 0.5}
EDITS = [edit("Ann"), edit("Bob", "{} is in"), edit("Carl", "At home, {} eats")]


def build(base: Base, edits: Sequence[Fact], progress: Any = None, **options: Any) -> Patch:
    method = get_method("moeedit")
    settings = {"layers": (0,), "projection": False, "ridge": 1e-3, "ridge_relative": True, "targets": WEAK}
    return method.build(base, edits, method.options(**(settings | options)), progress)


def logits(base: Base) -> Tensor:
    texts = [prompt.format("Ann") for prompt in ANSWERS]
    with torch.no_grad():
        return torch.cat([base.model(**base.tokenizer(t, return_tensors="pt")).logits[0] for t in texts])


@pytest.fixture(scope="module")
def patch() -> Patch:
    return build(taught_base(), EDITS, targets=STRONG)


@pytest.mark.quality
def test_the_model_says_the_new_answers_and_then_the_old_ones_again(patch: Patch) -> None:
    base = taught_base()
    texts, old = [fact.text for fact in EDITS], [fact.target_true for fact in EDITS]
    assert said(base, texts) == old
    for mode in ("merge", "hook"):
        with moe_patch.apply(base, patch, mode=mode):
            assert said(base, texts) == [fact.target_new for fact in EDITS]
        assert said(base, texts) == old


@pytest.mark.quality
def test_other_subjects_keep_their_answers(patch: Patch) -> None:
    others = ["Dora", "Finn", "Ida", "Kim"]
    texts = [prompt.format(other) for other in others for prompt in ANSWERS]
    with moe_patch.apply(taught_base(), patch):
        kept = said(taught_base(), texts)
    expected = [answer(prompt, other) for other in others for prompt in ANSWERS]
    same = sum(a == b for a, b in zip(kept, expected, strict=True))
    at_least(f"answers about others that stay, of {len(texts)}", same, 14)


@pytest.mark.quality
def test_results_say_how_it_went(patch: Patch) -> None:
    base = taught_base()
    for result in patch.results:
        before, target, after = (result[f"loss_{when}"] for when in ("before", "target", "edited"))
        assert isinstance(before, float)
        assert isinstance(target, float)
        assert isinstance(after, float)
        at_least("loss before", before, 0.1)
        at_most("loss with the target value", target, 0.1)
        at_most("loss when edited", after, 0.3)
        assert result["shared_with"] == []
    with moe_patch.apply(base, patch, mode="hook"):
        losses = target_losses(base, EDITS, TargetOptions())
    assert losses == pytest.approx([result["loss_edited"] for result in patch.results], abs=1e-3)


def test_saved_and_loaded_it_is_the_same_merged_or_hooked(patch: Patch, tmp_path: Path) -> None:
    base = taught_base()
    save(patch, tmp_path / "p.safetensors")
    loaded = load(tmp_path / "p.safetensors")
    assert loaded.hash == patch.hash
    assert loaded.hyperparameters["layers"] == [0]
    before, found = logits(base), []
    for mode in ("merge", "hook"):
        with moe_patch.apply(base, loaded, mode=mode):
            found.append(logits(base))
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found[0], before, atol=0.1)
    assert torch.equal(logits(base), before)


def stream(base: Base, prompt: Prompt, layer: int) -> Tensor:
    """(d_m,) the layer's output at the edited token."""
    seen: list[Tensor] = []
    hook = base.decoder_layers[layer].register_forward_hook(lambda _m, _i, out: seen.append(out[0]))
    with torch.no_grad():
        base.model(input_ids=torch.tensor([prompt.ids]))
    hook.remove()
    return seen[0][prompt.edited].double()


def dense_rows(base: Base, prompts: Sequence[Prompt], layer: int, space: NullSpace | None) -> Tensor:
    """(E * d_k,) the mean of g P_j k over the prompts of one fact, for all experts."""
    experts, _, width = base.layer(layer).shape
    total = torch.zeros(experts, width, dtype=torch.float64)
    for prompt in prompts:
        ids = torch.tensor([prompt.ids])
        call = capture_keys(base, ids, None, torch.tensor([[0, prompt.edited]]), [layer])[layer]
        assert call.keys is not None
        for expert, gate, key in zip(call.experts[0].tolist(), call.gates[0], call.keys[0], strict=True):
            projected = key[None] if space is None else space.project(expert, key[None])
            total[expert] += gate.double() * projected[0].double() / len(prompts)
    return total.flatten()


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize(("layers", "contexts"), [((1,), 0), ((0, 1, 2), 0), ((0, 2), 2)])
def test_each_layer_is_one_dense_least_squares_problem(
    layers: tuple[int, ...], contexts: int, projected: bool, tmp_path: Path
) -> None:
    base, edits, ridge = tiny_base("qwen3_moe"), facts(4), 0.05
    targets = TargetOptions(**WEAK, contexts=contexts, context_tokens=3)
    text = corpus(tmp_path)
    options = {"projection": True, "corpus": text, "energy": 0.5, "min_tokens": 1, "unseen": "edit"}
    patch = build(
        base,
        edits,
        layers=layers,
        ridge=ridge,
        ridge_relative=False,
        targets=targets,
        **(options if projected else {}),
    )
    moments = collect_moments(base, Corpus.read(text), layers, max_tokens=100_000)
    edited = wrap(copy.deepcopy(base.model), base.tokenizer)
    prefixes = context_prefixes(base, targets)
    value = find_targets(base, edits, layers[-1], targets).value.double()  # (T, d_m)
    prompts = [
        [encode_fact(base.reader, fact, targets.style, prefix=p, answer=False) for p in prefixes]
        for fact in edits
    ]
    for number, layer in enumerate(layers):
        space = null_space(moments[layer], energy=0.5, unseen="edit", min_tokens=1) if projected else None
        psi = torch.stack([dense_rows(edited, some, layer, space) for some in prompts])  # (T, E * d_k)
        present = torch.stack([stream(edited, some[0], layers[-1]) for some in prompts])
        residual = (value - present) / (len(layers) - number)
        normal = psi.T @ psi + ridge * torch.eye(psi.shape[1], dtype=torch.float64)
        flat = torch.linalg.solve(normal, psi.T @ residual)  # (E * d_k, d_m)
        delta = flat.unflatten(0, (base.layer(layer).num_experts, -1)).transpose(1, 2)  # (E, d_m, d_k)
        found = dense_delta(patch.layers[layer], base.layer(layer))
        torch.testing.assert_close(found.double(), delta, atol=2e-4, rtol=2e-3)
        asked = patch.layers[layer].residual
        assert asked is not None
        torch.testing.assert_close(asked.double(), residual, atol=1e-4, rtol=1e-3)
        with edited.layer(layer).weights() as weights:
            weights.add_(delta.float())


@pytest.mark.quality
def test_block_descent_approaches_the_exact_solution_and_reports_its_objectives() -> None:
    base = tiny_base("qwen3_moe")
    exact = build(base, facts(4), ridge=2.0, ridge_relative=False)
    few, many = (
        build(base, facts(4), ridge=2.0, ridge_relative=False, solver="bcd", passes=passes)
        for passes in (1, 60)
    )
    reported = many.hyperparameters["objectives"]
    assert isinstance(reported, dict)
    (values,) = reported["0"]
    assert len(values) == 61
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(values))
    assert "objectives" not in exact.hyperparameters
    wanted = dense_delta(exact.layers[0], base.layer(0))
    apart = [
        float((dense_delta(p.layers[0], base.layer(0)) - wanted).norm() / wanted.norm()) for p in (few, many)
    ]
    at_least("distance after one pass", apart[0], 1e-4)
    at_most("distance after 60 passes", apart[1], 1e-4)


def test_the_order_of_the_blocks_is_the_seeds() -> None:
    base = tiny_base("qwen3_moe")
    lefts = [
        build(base, facts(4), ridge=0.1, solver="bcd", passes=1, seed=seed).layers[0].left
        for seed in (1, 1, 2)
    ]
    assert torch.equal(lefts[0], lefts[1])
    assert not torch.equal(lefts[0], lefts[2])


def test_the_same_build_gives_the_same_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    base = tiny_base("qwen3_moe")
    first, second = (build(base, facts(3), layers=(0, 1), batch_size=2) for _ in range(2))
    assert first.hash == second.hash


@pytest.mark.parametrize("solver", ["exact", "bcd"])
def test_the_base_is_left_as_it_was(solver: str) -> None:
    base = tiny_base("qwen3_moe")
    before, implementation = snapshot(base), base.model.config._experts_implementation
    build(base, facts(4), layers=(0, 2), batch_size=3, solver=solver)
    assert unchanged(base, before)
    assert base.model.config._experts_implementation == implementation
    assert not any(module._forward_hooks for module in base.model.modules())


@pytest.mark.parametrize("stage", ["targets", "facts edited"])
def test_an_interruption_leaves_the_base_as_it_was(stage: str) -> None:
    base = tiny_base("qwen3_moe")
    before, implementation = snapshot(base), base.model.config._experts_implementation

    def interrupt(now: str, done: int, _total: int) -> None:
        if now == stage and done > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(base, facts(4), interrupt, layers=(0, 2), batch_size=2)
    assert unchanged(base, before)
    assert base.model.config._experts_implementation == implementation
    assert all("forward" not in block.__dict__ for block in base.decoder_layers)
    assert all(parameter.requires_grad for parameter in base.model.parameters())


def test_what_cannot_be_built() -> None:
    base = tiny_base("qwen3_moe")
    with pytest.raises(ConfigError, match=r"no edit layers for tiny-qwen3_moe.*0, 1, 2"):
        build(base, facts(1), layers=())
    with pytest.raises(ConfigError, match="no facts"):
        build(base, [])
    with pytest.raises(ModelError, match="layer 7 is out of range"):
        build(base, facts(1), layers=(7,))
    with pytest.raises(ModelError, match=r"layer 0 .* is dense"):
        build(tiny_base("deepseek_v3"), facts(1), layers=(0, 1))


def test_a_layer_that_is_wholly_protected(tmp_path: Path) -> None:
    base = tiny_base("qwen3_moe")
    with pytest.raises(TargetError, match="layer 0: all experts that the facts reach are protected"):
        build(base, facts(2), projection=True, corpus=corpus(tmp_path), min_tokens=10**6)


def test_options_are_checked() -> None:
    options = get_method("moeedit").options
    with pytest.raises(ValidationError, match="tau or energy, not both"):
        options(tau=0.1, energy=0.9)
    with pytest.raises(ValidationError, match="solvr"):
        options(solvr="exact")
    with pytest.raises(ValidationError, match="'exact', 'bcd', 'stacked' or 'by-expert'"):
        options(solver="lu")


def test_hyperparameters_name_the_text_by_its_hash(tmp_path: Path) -> None:
    text = corpus(tmp_path)
    patch = build(tiny_base("qwen3_moe"), facts(1), projection=True, corpus=text, min_tokens=1)
    assert patch.hyperparameters["corpus_hash"] == Corpus.read(text).hash
    assert "corpus" not in patch.hyperparameters
    assert patch.method == "moeedit"

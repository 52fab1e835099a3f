"""MEMIT's builds against its formula on dense matrices, with the model edited between layers and batches."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from moe_patch.base.keys import key_rows, measure_keys
from moe_patch.base.model import Base
from moe_patch.base.opening import wrap
from moe_patch.base.statistics import collect_moments
from moe_patch.data.corpus import Corpus
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import encode_fact
from moe_patch.errors import StatisticsError, TargetError
from moe_patch.methods import get_method
from moe_patch.methods.rivals.memit import MEMITOptions
from moe_patch.patch import load, save
from moe_patch.solve.algebra import edit_kernel
from moe_patch.solve.whitening import key_moment
from moe_patch.stack.drop import drop_facts
from moe_patch.stack.layers import layer_system
from moe_patch.targets.options import TargetOptions
from moe_patch.targets.search import find_targets
from moe_patch.tuning.choice import settle
from tests.methods.builds import build, corpus, facts, snapshot, unchanged
from tests.tiny import dense_delta, tiny_base

TARGETS = TargetOptions(steps=3, learning_rate=0.5)
WEIGHT, EPSILON = 0.5, 1e-3


def options(folder: Path) -> dict[str, object]:
    """Options under which a tiny model moves."""
    return {
        "corpus": corpus(folder),
        "targets": TARGETS,
        "ridge": WEIGHT,
        "ridge_relative": False,
        "epsilon": EPSILON,
    }


def stacked_keys(base: Base, edits: list[Fact], layer: int, last: int) -> tuple[Tensor, Tensor]:
    """(T, E * d_k) rows g k of all experts side by side, and (T, d_m) the stream after `last`."""
    prompts = [encode_fact(base.reader, fact, TARGETS.style, answer=False) for fact in edits]
    calls, stream = measure_keys(base, prompts, [layer], last, 8)
    place = base.layer(layer)
    rows = key_rows(calls[layer], place.num_experts, len(edits), None)
    flat = torch.zeros(len(edits), place.num_experts, place.d_key, dtype=torch.float64)
    flat[rows.fact, rows.expert] = rows.value.double()
    return flat.flatten(1), stream.double()


@pytest.mark.parametrize("method", ["memit", "moeedit-penalty"])
def test_each_layer_and_batch_is_its_dense_problem(method: str, tmp_path: Path) -> None:
    base, edits, layers = tiny_base("qwen3_moe"), facts(4), (0, 1)
    patch = build(method, base, layers=layers, batch_size=2, **options(tmp_path))
    protects = get_method(method).options().protect_earlier
    earlier: dict[int, Tensor] = {}  # rows of the first batch by layer, which ours keeps and MEMIT does not
    moments = collect_moments(base, Corpus.read(tmp_path / "text.txt"), layers)
    edited = wrap(copy.deepcopy(base.model), base.tokenizer)
    total = {layer: torch.zeros(base.layer(layer).shape, dtype=torch.float64) for layer in layers}
    for batch in (edits[:2], edits[2:]):
        value = find_targets(edited, batch, 1, TARGETS).value.double()  # (T, d_m)
        for number, layer in enumerate(layers):
            psi, stream = stacked_keys(edited, batch, layer, 1)
            residual = (value - stream) / (2 - number)
            if protects and layer in earlier:
                psi, residual = (
                    torch.cat([earlier[layer], psi]),
                    torch.cat([torch.zeros_like(residual), residual]),
                )
            earlier[layer] = psi
            experts = base.layer(layer).num_experts
            penalty = []
            for expert in range(experts):
                seen = int(moments[layer].tokens[expert]) >= 1
                moment = moments[layer].mean(expert) if seen else key_moment(moments[layer])
                penalty.append(moment + EPSILON * moment.diagonal().mean() * torch.eye(len(moment)))
            normal = psi.T @ psi + WEIGHT * torch.block_diag(*penalty)
            flat = torch.linalg.solve(normal, psi.T @ residual)  # (E * d_k, d_m)
            delta = flat.unflatten(0, (experts, -1)).transpose(1, 2)  # (E, d_m, d_k)
            total[layer] += delta
            with edited.layer(layer).weights() as weights:
                weights.add_(delta.float())
    for layer in layers:
        found = dense_delta(patch.layers[layer], base.layer(layer)).double()
        torch.testing.assert_close(found, total[layer], atol=1e-3, rtol=1e-2)
        assert float((found - total[layer]).norm() / total[layer].norm()) < 2e-3


def test_a_patch_holds_its_facts_own_rows_and_the_system_that_it_solved(tmp_path: Path) -> None:
    base = tiny_base("qwen3_moe")
    before = snapshot(base)
    patch = build("memit", base, **options(tmp_path))
    assert unchanged(base, before)
    delta = patch.layers[0]
    psi, _ = stacked_keys(base, facts(), 0, 1)
    own = torch.zeros_like(psi).unflatten(1, (base.layer(0).num_experts, -1))
    own[delta.fact_rows.fact, delta.fact_rows.expert] = delta.fact_rows.value.double()
    torch.testing.assert_close(own.flatten(1), psi, atol=1e-5, rtol=1e-4)
    assert not delta.shares_rows
    assert delta.ridge == WEIGHT
    assert delta.residual is not None
    system = layer_system(patch, 0)
    torch.testing.assert_close(system.wanted, delta.residual.double(), atol=1e-4, rtol=1e-3)
    save(patch, tmp_path / "p.safetensors")
    assert load(tmp_path / "p.safetensors").hash == patch.hash


def test_a_larger_lambda_moves_preserved_keys_less(tmp_path: Path) -> None:
    base = tiny_base("qwen3_moe")
    moments = collect_moments(base, Corpus.read(corpus(tmp_path)), [0])[0]
    moved = []
    for weight in (0.1, 100.0, 1e5):
        patch = build("memit", base, **(options(tmp_path) | {"ridge": weight, "layers": (0,)}))
        delta = dense_delta(patch.layers[0], base.layer(0)).double()  # (E, d_m, d_k)
        moved.append(float(torch.einsum("emk,ekl,eml->", delta, moments.second.double(), delta)))
    assert moved[0] > moved[1] > 100 * moved[2] > 0


def test_experts_without_text_are_left_alone_unless_told_otherwise(tmp_path: Path) -> None:
    base, given = tiny_base("qwen3_moe"), options(tmp_path) | {"layers": (0,)}
    tokens = collect_moments(base, Corpus.read(tmp_path / "text.txt"), [0])[0].tokens
    given["min_tokens"] = enough = int(tokens.median()) + 1
    rare = {expert for expert, count in enumerate(tokens.tolist()) if count < enough}
    edited = set(build("memit", base, **(given | {"unseen": "edit"})).layers[0].experts())
    kept = set(build("memit", base, **(given | {"unseen": "protect"})).layers[0].experts())
    assert edited & rare
    assert kept == edited - rare
    with pytest.raises(StatisticsError, match=f"fewer than {enough} tokens reached experts"):
        build("memit", base, **(given | {"unseen": "error"}))
    with pytest.raises(TargetError, match="layer 0: all experts that the facts reach are protected"):
        build("memit", base, **(given | {"unseen": "protect", "min_tokens": 10**6}))


def test_by_default_lambda_follows_the_facts_kernel_and_as_published_it_is_the_papers(tmp_path: Path) -> None:
    base = tiny_base("qwen3_moe")
    assert get_method("memit").rival
    patch = build(
        "memit", base, **(options(tmp_path) | {"ridge": 0.1, "ridge_relative": True, "layers": (0,)})
    )
    delta = patch.layers[0]
    diagonal = edit_kernel(delta.fact_rows, delta.rows).diagonal().mean()
    assert delta.ridge == pytest.approx(0.1 * float(diagonal), rel=1e-4)
    assert MEMITOptions().ridge_relative
    found = settle(base, get_method("memit"), recipe="as-published").options
    assert isinstance(found, MEMITOptions)
    assert (found.ridge, found.ridge_relative, found.projection) == (15_000.0, False, False)
    assert not found.protect_earlier
    targets = found.targets
    assert (targets.units, targets.steps, targets.clamp, targets.kl_weight) == ("published", 25, 0.75, 0.0625)
    assert (targets.contexts, targets.context_tokens, targets.keep_weight) == (5, 10, 0.0)


def test_a_fact_is_dropped_as_if_it_had_not_been_built(tmp_path: Path) -> None:
    base, given = tiny_base("qwen3_moe"), options(tmp_path) | {"layers": (0,)}
    whole, fewer = (build("memit", base, count, **given) for count in (4, 3))
    found = drop_facts(whole, {"fact-3"}).layers[0]
    first, second = (dense_delta(delta, base.layer(0)).double() for delta in (found, fewer.layers[0]))
    assert float((first - second).norm() / second.norm()) < 1e-4

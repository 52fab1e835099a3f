"""MoTE on tiny models against the definition of its manifold, layer by layer and batch by batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from moe_patch.apply import apply
from moe_patch.base.gradients import gradient_moments
from moe_patch.base.model import Base
from moe_patch.base.opening import wrap
from moe_patch.base.statistics import collect_moments
from moe_patch.data.corpus import Corpus
from moe_patch.data.prompts import pad_token
from moe_patch.errors import ConfigError, ModelError, StatisticsError
from moe_patch.methods.delta import EditSetup
from moe_patch.methods.mote.method import MoTEOptions, find_manifolds
from moe_patch.patch import Patch, load, save
from moe_patch.solve.algebra import edit_kernel, ridge_solve
from moe_patch.solve.moments import Moments
from moe_patch.solve.nullspace import NullSpace, null_space
from moe_patch.solve.tucker_edit import Manifold, compress_rows
from moe_patch.solve.whitening import EPSILON_SHARE
from tests.margins import at_most
from tests.methods.builds import build, corpus, snapshot, unchanged
from tests.tiny import dense_delta, tiny_base, tiny_batch

RANKS = (3, 20, 15)
MODELS = ["qwen3_moe", "gpt_oss", "qwen2_moe"]  # the last has a shared expert


def moments_of(base: Base, layers: list[int], text: Path) -> dict[int, Moments]:
    return collect_moments(base, Corpus.read(text), layers, max_tokens=100_000)


def spaces_of(moments: dict[int, Moments]) -> dict[int, NullSpace]:
    return {
        layer: null_space(found, energy=0.5, unseen="edit", min_tokens=1) for layer, found in moments.items()
    }


def manifolds_of(
    base: Base, layers: list[int], moments: dict[int, Moments], **options: Any
) -> dict[int, Manifold]:
    return find_manifolds(EditSetup(base, layers, moments, {}), MoTEOptions(**options))


def core_of(patch: Patch, last: int, manifold: Manifold) -> Tensor:
    """The core (r_e, r_out, r_in) from the last layer's keys and left factor."""
    delta = patch.layers[last]
    left = delta.left.double() @ manifold.read  # (T, r_out)
    return torch.einsum("to,tai->aoi", left, compress_rows(delta.fact_rows, manifold))


def dense(core: Tensor, manifold: Manifold, space: NullSpace | None) -> Tensor:
    """The deltas (E, d_m, d_k) of a core by the definition of the manifold."""
    deltas = torch.einsum("ja,mo,aoi,ki->jmk", manifold.expert, manifold.write, core, manifold.inner)
    if space is None:
        return deltas
    return torch.stack([space.project(expert, delta) for expert, delta in enumerate(deltas)])


def relative_error(delta: Tensor, expected: Tensor) -> float:
    return float((delta.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("model_type", MODELS)
@pytest.mark.parametrize("project", [True, False])
def test_at_full_ranks_without_whitening_the_solved_layer_is_the_woodbury_solution(
    model_type: str, tmp_path: Path, *, project: bool
) -> None:
    base = tiny_base(model_type)
    options: dict[str, Any] = {"ridge": 0.5} | ({"corpus": corpus(tmp_path)} if project else {})
    ours = build("mote", base, ranks=(1.0, 1.0, 1.0), whitening="none", **options)
    theirs = build("woodbury-spread", base, **options)
    mine, other = ours.layers[1], theirs.layers[1]
    torch.testing.assert_close(mine.left, other.left, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mine.rows.value, other.rows.value, rtol=1e-4, atol=1e-5)
    assert torch.equal(mine.rows.expert, other.rows.expert)  # no rows at experts that a fact does not reach
    torch.testing.assert_close(mine.residual, other.residual, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model_type", MODELS)
@pytest.mark.parametrize("whitening", ["none", "in", "both"])
def test_every_layer_has_the_core_through_its_own_factors_and_projections(
    model_type: str, whitening: str, tmp_path: Path
) -> None:
    base, text, layers = tiny_base(model_type), corpus(tmp_path), [0, 1, 2]
    options = {"ranks": RANKS, "whitening": whitening, "whitening_epsilon": 1e-3}
    patch = build("mote", base, layers=tuple(layers), corpus=text, **options)
    moments = moments_of(base, layers, text)
    manifolds, spaces = manifolds_of(base, layers, moments, **options), spaces_of(moments)
    core = core_of(patch, 2, manifolds[2])
    for layer in layers:
        expected = dense(core, manifolds[layer], spaces[layer]) / (3 - layer)
        assert relative_error(dense_delta(patch.layers[layer], base.layer(layer)), expected) < 1e-4
    assert patch.hyperparameters["tucker_ranks"] == list(RANKS)
    assert patch.hyperparameters["solved_at"] == 2


@pytest.mark.parametrize("whitening", ["none", "in", "both"])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_the_file_holds_the_system_that_was_solved(
    whitening: str, batch_size: int | None, tmp_path: Path
) -> None:
    base, text = tiny_base("qwen3_moe"), corpus(tmp_path)
    options: dict[str, Any] = {"batch_size": batch_size, "ranks": RANKS, "whitening": whitening}
    one_lambda = {"ridge": 0.1, "ridge_relative": False}  # for all batches
    patch = build("mote", base, count=5, corpus=text, **options, **one_lambda)
    delta = patch.layers[1]
    system = edit_kernel(delta.fact_rows, delta.rows)  # Phi Phi^T
    torch.testing.assert_close(system, system.T, rtol=1e-4, atol=1e-4 * float(system.max()))
    assert delta.residual is not None
    again = ridge_solve((system + system.T) / 2, delta.residual, delta.ridge)
    assert relative_error(delta.left, again) < 1e-3


def test_the_facts_own_rows_are_kept_beside(tmp_path: Path) -> None:
    base, text = tiny_base("qwen3_moe"), corpus(tmp_path)
    patch = build("mote", base, corpus=text, ranks=RANKS)
    for layer in (0, 1):
        own = build("moeedit", base, layers=(layer,), corpus=text).layers[layer]
        keys = patch.layers[layer].fact_rows
        assert keys is not None
        torch.testing.assert_close(keys.value, own.rows.value)
        assert torch.equal(keys.expert, own.rows.expert)
    assert len(patch.layers[1].rows.value) == base.layer(1).num_experts * 4  # every fact at every expert


@pytest.mark.parametrize("model_type", MODELS)
def test_patches_survive_a_file_and_mean_the_same_merged_and_hooked(model_type: str, tmp_path: Path) -> None:
    base, text = tiny_base(model_type), corpus(tmp_path)
    before = snapshot(base)
    patch = build("mote", base, corpus=text, ranks=RANKS)
    assert unchanged(base, before)
    save(patch, tmp_path / "p.safetensors")
    again = load(tmp_path / "p.safetensors")
    assert again.hash == patch.hash
    ids, mask = tiny_batch()

    def logits() -> Tensor:
        with torch.no_grad():
            return base.model(input_ids=ids, attention_mask=mask).logits[mask.bool()]

    plain = logits()
    with apply(base, again, mode="merge"):
        merged = logits()
    with apply(base, again, mode="hook"):
        hooked = logits()
    torch.testing.assert_close(merged, hooked, rtol=1e-4, atol=1e-4)
    assert (merged - plain).abs().max() > 1e-3
    assert unchanged(base, before)


@pytest.mark.quality
def test_protected_facts_of_earlier_batches_move_less(tmp_path: Path) -> None:
    base, text = tiny_base("qwen3_moe"), corpus(tmp_path)

    def moved(*, protect: bool) -> float:
        """How much the second batch changes what the solved layer adds for the facts of the first."""
        options: dict[str, Any] = {"layers": (1,), "corpus": text, "ranks": RANKS, "ridge": 1e-3}
        first = build("mote", base, count=3, **options).layers[1]
        both = build("mote", base, count=6, batch_size=3, protect_earlier=protect, **options).layers[1]
        keys = first.fact_rows
        after = edit_kernel(keys, both.rows) @ both.left.double()
        return relative_error(after, edit_kernel(keys, first.rows) @ first.left.double())

    share = moved(protect=True) / moved(protect=False)
    at_most("share of the movement that protection leaves", share, 0.1)


def test_whitening_makes_lambda_independent_of_the_keys_scale(tmp_path: Path) -> None:
    """Keys twice as long and weights half as large are the same model; so should the edit be."""
    text = corpus(tmp_path)

    def added(whitening: str, scale: float) -> Tensor:
        base = tiny_base("qwen3_moe")
        with torch.no_grad():
            for layer in base.layers.values():
                experts: Any = layer.experts
                half = experts.gate_up_proj.shape[1] // 2
                experts.gate_up_proj[:, half:] *= scale
                experts.down_proj /= scale
        options: dict[str, Any] = {"ranks": (4, 32, 24), "whitening": whitening, "whitening_epsilon": 1e-12}
        absolute = {"ridge": 1.0, "ridge_relative": False}
        delta = build("mote", base, layers=(1,), corpus=text, **options, **absolute).layers[1]
        return edit_kernel(delta.fact_rows, delta.rows) @ delta.left.double()

    assert relative_error(added("in", 4.0), added("in", 1.0)) < 1e-2
    assert relative_error(added("none", 4.0), added("none", 1.0)) > 0.1


def test_a_truncated_patch_is_smaller_and_states_its_error(tmp_path: Path) -> None:
    base, text = tiny_base("qwen3_moe"), corpus(tmp_path)
    options = {"corpus": text, "ranks": RANKS}
    whole, cut = build("mote", base, **options), build("mote", base, delta_rank=2, **options)
    errors = cut.hyperparameters["delta_errors"]
    assert isinstance(errors, dict)
    for layer in (0, 1):
        assert cut.layers[layer].left.shape == (2, 32)
        difference = relative_error(
            dense_delta(cut.layers[layer], base.layer(layer)),
            dense_delta(whole.layers[layer], base.layer(layer)),
        )
        assert difference == pytest.approx(errors[str(layer)], rel=1e-3)
        assert difference > 1e-3
    save(cut, tmp_path / "cut.safetensors")
    assert load(tmp_path / "cut.safetensors").hash == cut.hash
    assert "delta_errors" not in whole.hyperparameters


def test_ranks_are_chosen_by_energy_at_the_last_layer(tmp_path: Path) -> None:
    base = tiny_base("qwen3_moe")
    wide = build("mote", base, rank_energy=0.99).hyperparameters["tucker_ranks"]
    narrow = build("mote", base, rank_energy=0.5).hyperparameters["tucker_ranks"]
    assert isinstance(wide, list)
    assert isinstance(narrow, list)
    assert all(few < many for few, many in zip(narrow, wide, strict=True))


def test_no_output_is_left_out_by_default() -> None:
    base = tiny_base("qwen3_moe")
    own, same, fewer = (
        build("mote", base, **options).hyperparameters["tucker_ranks"]
        for options in ({}, {"rank_energy": 0.99}, {"rank_energy": 0.9})
    )
    assert isinstance(own, list)
    assert isinstance(same, list)
    assert isinstance(fewer, list)
    assert (own[0], own[2]) == (same[0], same[2])
    assert fewer[1] < own[1] == base.hidden_size


def test_experts_without_enough_text_are_protected_by_default_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base, text = tiny_base("qwen3_moe"), corpus(tmp_path)
    moments = moments_of(base, [1], text)[1]
    floor = int(moments.tokens.sort().values[2])  # two experts are below
    patch = build("mote", base, layers=(1,), corpus=text, ranks=RANKS, unseen="protect", min_tokens=floor)
    rare = (moments.tokens < floor).nonzero().flatten().tolist()
    assert rare
    assert not set(rare) & set(patch.layers[1].experts())
    assert len(patch.layers[1].experts()) == 8 - len(rare)
    assert f"reached {len(rare)} of 8 experts: they are not edited" in caplog.text
    (said,) = patch.hyperparameters["protection"]
    assert (said["layer"], said["unseen"]) == (1, rare)


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        ({}, True),
        ({"whitening": "none"}, True),
        ({"projection": False}, True),
        ({"projection": False, "whitening": "none"}, False),
    ],
)
def test_text_is_used_for_projection_and_for_whitening(options: dict[str, Any], needed: bool) -> None:
    assert MoTEOptions(**options).needs_text is needed


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ValidationError, match="only one of ranks, rank_energy and core_width"):
        MoTEOptions(ranks=(1, 1, 1), rank_energy=0.5)
    with pytest.raises(ConfigError, match="rank 9 of mode 'expert'"):
        build("mote", tiny_base("qwen3_moe"), ranks=(9, 1, 1))


@pytest.mark.parametrize("method", ["mote", "woodbury-spread"])
def test_layers_of_different_shapes_cannot_share_a_solution(method: str) -> None:
    base = tiny_base("qwen3_moe")
    experts: Any = base.layer(0).experts
    experts.down_proj = torch.nn.Parameter(experts.down_proj[:, :, :20].contiguous())
    experts.gate_up_proj = torch.nn.Parameter(experts.gate_up_proj[:, :40].contiguous())
    with pytest.raises(ModelError, match="layers 0, 1 differ in the number or sizes of their experts"):
        build(method, wrap(base.model, base.tokenizer))


def test_ranks_can_be_given_by_the_width_of_compressed_keys(tmp_path: Path) -> None:
    base, text = tiny_base("qwen3_moe"), corpus(tmp_path)
    few, more, all_ = (
        build("mote", base, corpus=text, core_width=width).hyperparameters["tucker_ranks"]
        for width in (10, 60, 4096)
    )
    for ranks, width in ((few, 10), (more, 60)):
        assert isinstance(ranks, list)
        assert 0 < int(str(ranks[0])) * int(str(ranks[2])) <= width
    experts, out, inner = base.layer(1).shape
    assert all_ == [experts, out, inner]  # no smaller than the layer: the published width holds all of it
    assert few != more


@pytest.mark.parametrize("whitening", ["out", "both"])
def test_outputs_can_be_whitened_by_random_gradients(whitening: str, tmp_path: Path) -> None:
    base, text = tiny_base("qwen3_moe"), corpus(tmp_path)
    options: dict[str, Any] = {"corpus": text, "ranks": RANKS, "whitening": whitening, "layers": (1,)}
    plain, first, again, fewer = (
        build("mote", base, **(options | own)).layers[1].left
        for own in (
            {},
            {"out_moment": "gradients"},
            {"out_moment": "gradients"},
            {"out_moment": "gradients", "gradient_tokens": 8},
        )
    )
    assert torch.equal(first, again)
    assert float((first - plain).norm() / plain.norm()) > 1e-2
    assert float((first - fewer).norm() / first.norm()) > 1e-3


def test_gradients_are_taken_of_the_text_that_is_preserved(tmp_path: Path) -> None:
    base, layers = tiny_base("qwen3_moe"), [0, 1]
    text = corpus(tmp_path)
    texts, moments = Corpus.read(text).texts, moments_of(base, layers, text)
    options = MoTEOptions(whitening="out", out_moment="gradients", ranks=RANKS)
    sequences = list(Corpus("", texts).sequences(base.reader, max_tokens=None, length=512))
    expected = gradient_moments(base, sequences, layers, pad=pad_token(base.tokenizer))
    found = find_manifolds(EditSetup(base, layers, moments, {}, texts), options)
    for layer in layers:
        epsilon = EPSILON_SHARE * expected[layer].diagonal().mean()
        moment = expected[layer] + epsilon * torch.eye(base.hidden_size)
        factors = found[layer].write.T @ moment @ found[layer].write  # U^T G^(-1/2) G G^(-1/2) U
        torch.testing.assert_close(factors, torch.eye(RANKS[1], dtype=torch.float64), atol=1e-5, rtol=0)
    with pytest.raises(StatisticsError, match="gradients need text"):
        find_manifolds(EditSetup(base, layers, moments, {}), options)

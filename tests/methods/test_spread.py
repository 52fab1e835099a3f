"""Methods that solve once and copy: what each layer gets in each batch, and when they equal MoEEdit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from moe_patch.base.statistics import collect_moments
from moe_patch.data.corpus import Corpus
from moe_patch.methods import get_method
from moe_patch.patch import load, save
from moe_patch.solve.algebra import edit_kernel, edit_response, ridge_solve
from moe_patch.solve.nullspace import null_space
from tests.methods.builds import build, corpus, facts, snapshot, unchanged
from tests.tiny import dense_delta, tiny_base

METHODS = [("woodbury-spread", {"solver": "exact"}), ("bcd-spread", {"solver": "bcd", "passes": 2})]


@pytest.mark.parametrize(("method", "moeedit"), METHODS)
@pytest.mark.parametrize("batch_size", [None, 2])
def test_in_one_layer_they_are_moeedit(
    method: str, moeedit: dict[str, object], batch_size: int | None, tmp_path: Path
) -> None:
    base, text = tiny_base("qwen3_moe"), corpus(tmp_path)
    options = {"passes": 2} if method == "bcd-spread" else {}
    ours = build(method, base, layers=(1,), batch_size=batch_size, corpus=text, **options)
    theirs = build("moeedit", base, layers=(1,), batch_size=batch_size, corpus=text, **moeedit)
    for name in ("left", "residual"):
        torch.testing.assert_close(getattr(ours.layers[1], name), getattr(theirs.layers[1], name))
    torch.testing.assert_close(ours.layers[1].rows.value, theirs.layers[1].rows.value)
    assert torch.equal(ours.layers[1].rows.expert, theirs.layers[1].rows.expert)
    assert ours.layers[1].shares_rows == theirs.layers[1].shares_rows == (method == "woodbury-spread")
    assert ours.hyperparameters["solved_at"] == 1


@pytest.mark.parametrize(("method", "_"), METHODS)
def test_layers_below_get_copies_divided_and_projected_as_their_own(
    method: str, _: object, tmp_path: Path
) -> None:
    base, text = tiny_base("qwen3_moe"), corpus(tmp_path)
    patch = build(method, base, layers=(0, 1, 2), corpus=text)
    moments = collect_moments(base, Corpus.read(text), [0, 1], max_tokens=100_000)
    whole = dense_delta(patch.layers[2], base.layer(2))
    for layer, divisor in ((0, 3), (1, 2)):
        space = null_space(moments[layer], energy=0.5, unseen="edit", min_tokens=1)
        expected = torch.stack([space.project(expert, delta) for expert, delta in enumerate(whole / divisor)])
        delta = patch.layers[layer]
        torch.testing.assert_close(dense_delta(delta, base.layer(layer)), expected, rtol=1e-4, atol=1e-6)
        assert not delta.shares_rows
        assert delta.residual is not None
        added = edit_response(delta.left, delta.rows, delta.fact_rows)
        torch.testing.assert_close(delta.residual, added, rtol=1e-4, atol=1e-5, check_dtype=False)


def test_keys_of_the_layers_below_are_the_facts_own_of_the_unedited_model(tmp_path: Path) -> None:
    base = tiny_base("qwen3_moe")
    patch = build("woodbury-spread", base, layers=(0, 1, 2))
    for layer in (0, 1):
        alone = build("moeedit", base, layers=(layer,)).layers[layer]
        torch.testing.assert_close(patch.layers[layer].fact_rows.value, alone.rows.value)
        assert torch.equal(patch.layers[layer].fact_rows.expert, alone.rows.expert)


def test_batches_add_up_to_the_joint_solution_of_what_was_asked() -> None:
    patch = build("woodbury-spread", tiny_base("qwen3_moe"), count=5, batch_size=2, layers=(0, 2))
    delta = patch.layers[2]
    assert delta.residual is not None
    joint = ridge_solve(edit_kernel(delta.fact_rows), delta.residual, delta.ridge)
    torch.testing.assert_close(delta.left, joint, rtol=1e-3, atol=1e-5)
    assert patch.layers[0].fact_rows.num_facts == 5


@pytest.mark.parametrize(("method", "_"), METHODS)
def test_patches_survive_a_file_and_leave_the_base_alone(method: str, _: object, tmp_path: Path) -> None:
    base = tiny_base("gpt_oss")
    before = snapshot(base)
    patch = build(method, base, batch_size=3)
    assert unchanged(base, before)
    save(patch, tmp_path / "p.safetensors")
    assert load(tmp_path / "p.safetensors").hash == patch.hash
    assert patch.method == method
    assert [result["loss_edited"] for result in patch.results] == pytest.approx(
        [result["loss_edited"] for result in build(method, base, batch_size=3).results]
    )


def test_objectives_of_the_descent_are_reported_for_the_layer_that_is_solved() -> None:
    patch = build("bcd-spread", tiny_base("qwen3_moe"), count=4, batch_size=2, passes=3)
    objectives = patch.hyperparameters["objectives"]
    assert isinstance(objectives, dict)
    assert list(objectives) == ["1"]
    assert [len(batch) for batch in objectives["1"]] == [4, 4]


def test_progress_tells_of_every_stage_once_it_is_done() -> None:
    method, told = get_method("woodbury-spread"), []
    options = method.options(layers=(0, 1), projection=False, batch_size=2, targets={"steps": 2})
    method.build(tiny_base("qwen3_moe"), facts(4), options, lambda *stage: told.append(stage))
    batch = [("targets", 2, 4), ("targets", 4, 4), ("keys", 2, 2), ("solve", 1, 2), ("solve", 2, 2)]
    assert told == [*batch, ("facts edited", 2, 4), *batch, ("facts edited", 4, 4), ("facts asked", 4, 4)]

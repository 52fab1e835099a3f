"""AlphaEdit against its published formula, with its history, on dense matrices."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from moe_patch.base.opening import wrap
from moe_patch.base.statistics import collect_moments
from moe_patch.data.corpus import Corpus
from moe_patch.methods import get_method
from moe_patch.methods.rivals.alphaedit import AlphaEditOptions
from moe_patch.solve.moments import Moments
from moe_patch.solve.nullspace import null_space, shared_null_space
from moe_patch.targets.options import TargetOptions
from moe_patch.targets.search import find_targets
from moe_patch.tuning.choice import settle
from tests.methods.builds import build, corpus, facts
from tests.methods.rivals.test_memit import stacked_keys
from tests.tiny import dense_delta, tiny_base

TARGETS = TargetOptions(steps=3, learning_rate=0.5)
L2 = 0.2


def options(folder: Path) -> dict[str, object]:
    return {
        "corpus": corpus(folder),
        "targets": TARGETS,
        "ridge": L2,
        "ridge_relative": False,
        "energy": 0.6,
        "layers": (1,),
    }


@pytest.mark.parametrize("history", [True, False])
def test_two_batches_are_the_published_formula_with_its_history(history: bool, tmp_path: Path) -> None:
    base, edits = tiny_base("qwen3_moe"), facts(4)
    given = options(tmp_path) | {"batch_size": 2, "protect_earlier": history}
    patch = build("alphaedit", base, **given)
    seen = collect_moments(base, Corpus.read(tmp_path / "text.txt"), [1])[1]
    experts, out, width = base.layer(1).shape
    pooled = seen.second.double().sum(0)  # (d_k, d_k)
    values, vectors = torch.linalg.eigh(pooled)
    share = values.flip(0).cumsum(0) / values.sum()
    used = vectors[:, width - (int((share < 0.6).sum()) + 1) :]  # (d_k, r)
    projector = torch.eye(width, dtype=torch.float64) - used @ used.T
    p = torch.block_diag(*[projector] * experts)  # the same for every expert
    edited = wrap(copy.deepcopy(base.model), base.tokenizer)
    cache, total = torch.zeros_like(p), torch.zeros(experts, out, width, dtype=torch.float64)
    for batch in (edits[:2], edits[2:]):
        value = find_targets(edited, batch, 1, TARGETS).value.double()
        psi, stream = stacked_keys(edited, batch, 1, 1)
        k, r = psi.T, (value - stream).T  # (E * d_k, T), (d_m, T)
        flat = torch.linalg.solve(p @ (k @ k.T + cache) + L2 * torch.eye(len(p)), p @ k @ r.T)
        if history:
            cache += k @ k.T
        delta = flat.unflatten(0, (experts, width)).transpose(1, 2)  # (E, d_m, d_k)
        total += delta
        with edited.layer(1).weights() as weights:
            weights.add_(delta.float())
    found = dense_delta(patch.layers[1], base.layer(1)).double()
    assert float((found - total).norm() / total.norm()) < 2e-3


def test_the_history_does_not_move_earlier_facts_about_the_same_subject(tmp_path: Path) -> None:
    base, given = tiny_base("qwen3_moe"), options(tmp_path) | {"batch_size": 2}
    first, *_ = facts(1)
    again = type(first)("again", "{} is near", first.subject, "Landx")
    other = facts(3)[1:]
    for method, moves in (("alphaedit", False), ("moeedit", True)):
        chosen = get_method(method)
        own = chosen.options(**(given | {"min_tokens": 1, "unseen": "edit"}))
        patch = chosen.build(base, [first, other[0], again, other[1]], own)
        assert (patch.results[0]["shared_with"] == ["again"]) == moves


def test_one_projection_is_that_of_all_keys_together() -> None:
    generator = torch.Generator().manual_seed(0)
    keys = [torch.randn(count, 5, generator=generator) for count in (30, 8, 12)]
    seen = Moments(3, torch.stack([k.T @ k for k in keys]), torch.tensor([30, 8, 12]))
    whole = torch.cat(keys)
    alone = Moments(3, (whole.T @ whole)[None], torch.tensor([50]))
    found = shared_null_space(seen, tau=0.9, min_tokens=40)
    expected = null_space(alone, tau=0.9, min_tokens=1)
    assert set(found.basis) == {0, 1, 2}
    for basis in found.basis.values():
        torch.testing.assert_close(
            basis @ basis.T, expected.basis[0] @ expected.basis[0].T, atol=1e-5, rtol=0
        )
    assert found.unseen == ()
    assert shared_null_space(seen, tau=0.9, min_tokens=51).unseen == (0, 1, 2)
    assert found.summary()["rule"] == "tau 0.9, one for all experts"


def test_as_published_it_has_the_public_code_s_numbers(tmp_path: Path) -> None:
    base, text = tiny_base("qwen3_moe"), corpus(tmp_path)
    assert get_method("alphaedit").rival
    found = settle(base, get_method("alphaedit"), recipe="as-published").options
    assert isinstance(found, AlphaEditOptions)
    assert (found.ridge, found.ridge_relative, found.protect_earlier, found.tau) == (10.0, False, True, 0.02)
    assert (found.targets.learning_rate, found.targets.contexts) == (0.1, 5)
    patch = build("alphaedit", base, 2, corpus=text, energy=None, tau=0.02, targets=TARGETS, layers=(0,))
    protection = patch.hyperparameters["protection"]
    assert isinstance(protection, list)
    assert isinstance(protection[0], dict)
    assert protection[0]["rule"] == "tau 0.02, one for all experts"

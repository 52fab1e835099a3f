"""The change on ordinary text: against every token's distribution at once, in fp64."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from moe_patch.apply import apply
from moe_patch.base.model import Base
from moe_patch.errors import EvaluationError, NumericalError
from moe_patch.evaluation import drift
from moe_patch.evaluation.drift import Drift, divergence, measure_drift
from moe_patch.patch import Patch
from tests.tiny import tiny_base, tiny_patch


@pytest.fixture
def base() -> Base:
    return tiny_base("qwen3_moe")


@pytest.fixture
def patch(base: Base) -> Patch:
    return tiny_patch(base, [0, 1], scale=1.5)


SEQUENCES = [
    torch.randint(4, 200, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    for length in (9, 3, 1, 12, 2, 3)
]


def expected(base: Base) -> list[Tensor]:
    """Log-probabilities of the next tokens, one sequence at a time."""
    with torch.no_grad():
        return [base.model(torch.tensor([row])).logits[0, :-1].double().log_softmax(-1) for row in SEQUENCES]


@pytest.mark.parametrize("logits", [1, 20 * 260, 2**26])
def test_it_is_the_mean_over_all_tokens_in_batches_of_any_size(
    base: Base, patch: Patch, logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, "_LOGITS", logits)
    before = expected(base)
    with apply(base, patch, mode="hook"):
        after = expected(base)
    found = measure_drift(base, patch, SEQUENCES)
    nexts = [torch.tensor(row[1:], dtype=torch.int64) for row in SEQUENCES]
    apart = torch.cat([(p.exp() * (p - q)).sum(-1) for p, q in zip(before, after, strict=True)])
    assert found.tokens == len(apart) == sum(map(len, nexts))
    assert found.divergence == pytest.approx(float(apart.mean()), rel=1e-4)
    for loss, states in ((found.loss_before, before), (found.loss_after, after)):
        said = torch.cat([-p.gather(1, ids[:, None])[:, 0] for p, ids in zip(states, nexts, strict=True)])
        assert loss == pytest.approx(float(said.mean()), rel=1e-5)
    assert found.perplexity_after == pytest.approx(math.exp(found.loss_after))


def test_a_patch_that_does_nothing_moves_nothing(base: Base, patch: Patch) -> None:
    none = {layer: replace(delta, left=torch.zeros_like(delta.left)) for layer, delta in patch.layers.items()}
    found = measure_drift(base, replace(patch, layers=none), SEQUENCES)
    assert found.divergence == pytest.approx(0.0, abs=1e-6)
    assert found.loss_after == pytest.approx(found.loss_before, abs=1e-6)


def test_text_that_says_nothing_and_numbers_that_mean_nothing_are_refused(base: Base, patch: Patch) -> None:
    with pytest.raises(EvaluationError, match="no text"):
        measure_drift(base, patch, [[5], []])
    torch.nn.init.constant_(base.model.lm_head.weight, math.nan)
    with pytest.raises(NumericalError, match="other text"):
        measure_drift(base, patch, SEQUENCES)


@given(st.integers(2, 6), st.integers(0, 2**31))
def test_a_divergence_is_none_between_equals_and_positive_otherwise(size: int, seed: int) -> None:
    first, second = torch.randn(2, 3, size, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)
    assert torch.equal(divergence(first, first), torch.zeros(3))
    assert (divergence(first, second) > 0).all()
    ruled_out = first.clone()
    ruled_out[:, 0] = -torch.inf
    assert divergence(ruled_out.log_softmax(-1), second).isfinite().all()


def test_a_perplexity_beyond_all_numbers_is_a_large_one() -> None:
    assert math.isfinite(Drift(1, 0.0, 1.0, 1e6).perplexity_after)

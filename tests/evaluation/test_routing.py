"""Routing similarity and divergence, against sets and sums written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_patch.apply import apply
from moe_patch.base.model import Base
from moe_patch.errors import EvaluationError
from moe_patch.evaluation.routing import (
    compare_routing,
    jaccard_similarity,
    record_routing,
    routing_distribution,
)
from tests.tiny import tiny_base, tiny_patch

PROMPTS = ["The capital of Ys is", "Ys", "In Lyonesse they speak", "Avalon is"]


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base("qwen3_moe")


expert_sets = st.lists(st.permutations(range(6)), min_size=1, max_size=5)


@given(expert_sets, st.randoms(use_true_random=False))
def test_jaccard_is_that_of_sets(rows: list[list[int]], random) -> None:
    before = [row[:3] for row in rows]
    after = [random.sample(range(6), 3) for _ in rows]
    wanted = [len({*a} & {*b}) / len({*a} | {*b}) for a, b in zip(before, after, strict=True)]
    assert jaccard_similarity(torch.tensor(before), torch.tensor(after)).tolist() == pytest.approx(wanted)


def test_a_softmax_is_taken_as_it_is_and_logits_are_normalised() -> None:
    logits = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(routing_distribution(logits.softmax(-1)), routing_distribution(logits), atol=1e-5)
    assert torch.allclose(routing_distribution(logits).exp().sum(-1), torch.ones(5, dtype=torch.float64))


def test_nothing_moves_without_a_patch_whatever_the_batch(base: Base) -> None:
    shift = compare_routing(
        record_routing(base, PROMPTS, batch_size=1), record_routing(base, PROMPTS, batch_size=2), -1
    )
    assert [layer.similarity for layer in shift.layers] == [100.0] * 3
    assert all(layer.divergence == pytest.approx(0, abs=1e-9) for layer in shift.layers)
    assert {layer.tokens for layer in shift.layers} == {sum(len(p) for p in PROMPTS)}


def test_only_layers_above_the_edit_move_and_only_they_are_averaged(base: Base) -> None:
    before = record_routing(base, PROMPTS)
    with apply(base, tiny_patch(base, [1], scale=2.0)):
        after = record_routing(base, PROMPTS)
    shift = compare_routing(before, after, lowest_edited=1)
    below, edited, above = shift.layers
    assert (below.similarity, edited.similarity) == (100.0, 100.0)
    assert above.similarity < 100.0
    assert (shift.similarity, shift.divergence) == (above.similarity, above.divergence)


def test_divergence_is_before_from_after(base: Base) -> None:
    before = record_routing(base, PROMPTS)
    with apply(base, tiny_patch(base, [0], scale=2.0)):
        after = record_routing(base, PROMPTS)
    shift = compare_routing(before, after, 0)
    for layer in (1, 2):
        p, q = (calls[layer].scores.double().softmax(-1) for calls in (before, after))
        wanted = float((p * (p / q).log()).sum(-1).mean())
        assert shift.layers[layer].divergence == pytest.approx(wanted, rel=1e-6)
        assert wanted > 0


def test_an_edit_of_the_last_layer_moves_nothing_that_could_be_averaged(base: Base) -> None:
    routing = record_routing(base, PROMPTS)
    shift = compare_routing(routing, routing, lowest_edited=2)
    assert (shift.similarity, shift.divergence) == (None, None)


def test_recordings_of_different_prompts_cannot_be_compared(base: Base) -> None:
    with pytest.raises(EvaluationError, match=r"routed \d+ tokens before and \d+ after"):
        compare_routing(record_routing(base, PROMPTS), record_routing(base, PROMPTS[:2]), 0)

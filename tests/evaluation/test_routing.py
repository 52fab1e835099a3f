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
    LayerShift,
    RoutingShift,
    compare_routing,
    jaccard_similarity,
    record_routing,
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


def test_the_divergence_of_sigmoids_is_that_of_their_shares() -> None:
    base = tiny_base("deepseek_v3")
    before = record_routing(base, PROMPTS)
    lowest, *above = base.layers
    with apply(base, tiny_patch(base, [lowest], scale=2.0)):
        after = record_routing(base, PROMPTS)
    shift = compare_routing(before, after, lowest)
    for layer in shift.layers:
        if layer.layer in above:
            p, q = (calls[layer.layer].scores.double().sigmoid() for calls in (before, after))
            p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
            assert layer.divergence == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-6)


@pytest.mark.parametrize(
    ("layers", "lowest", "sizes"), [(9, 0, [2] * 4), (6, 2, [1] * 3), (12, 0, [2, 3, 3, 3])]
)
def test_windows_are_quarters_of_the_layers_above(layers: int, lowest: int, sizes: list[int]) -> None:
    shifts = [LayerShift(2 * index, 100.0 - index, 0.1 * index, 5) for index in range(layers)]
    windows = RoutingShift(tuple(shifts), 2 * lowest).windows
    above, start = shifts[lowest + 1 :], 0
    assert len(windows) == len(sizes)
    for window, size in zip(windows, sizes, strict=True):
        part = above[start : start + size]
        assert (window.first, window.last) == (part[0].layer, part[-1].layer)
        assert window.similarity == pytest.approx(sum(each.similarity for each in part) / size)
        assert window.divergence == pytest.approx(sum(each.divergence or 0 for each in part) / size)
        start += size
    assert start == len(above)
    assert (windows[0].name == "1st quarter") == (len(sizes) == 4)


def test_an_edit_of_the_last_layer_moves_nothing_that_could_be_averaged(base: Base) -> None:
    routing = record_routing(base, PROMPTS)
    shift = compare_routing(routing, routing, lowest_edited=2)
    assert (shift.similarity, shift.divergence) == (None, None)


def test_recordings_of_different_prompts_cannot_be_compared(base: Base) -> None:
    with pytest.raises(EvaluationError, match=r"routed \d+ tokens before and \d+ after"):
        compare_routing(record_routing(base, PROMPTS), record_routing(base, PROMPTS[:2]), 0)

"""The rule by which layers are chosen, on reports made by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_patch.errors import ConfigError
from moe_patch.tracing import Effect, LayerEffect, TraceReport, choose_layers
from moe_patch.tracing.sites import Kind
from tests.tiny import tiny_base


def report(blocks: Sequence[float], outputs: Sequence[float] = (), dense: int = 0) -> TraceReport:
    layers = []
    for index, block in enumerate(blocks):
        effects: dict[Kind, Effect] = {"moe": Effect(block, 0.01)}
        if outputs:
            effects["stream"] = Effect(outputs[index], 0.01)
        layers.append(LayerEffect(index, 0 if index < dense else 4, effects))
    return TraceReport("by hand", (), 3.0, 1, 0, 1, Effect(0.9, 0.01), tuple(layers))


@pytest.mark.parametrize(
    ("blocks", "count", "chosen"),
    [
        ((0.1, 0.5, 0.1), 1, (1,)),
        ((0.1, 0.45, 0.5), 1, (1,)),  # the first of those that carry nearly as much
        ((0.1, 0.3, 0.5), 2, (1, 2)),
        ((0.5, 0.2, 0.1), 3, (0,)),  # nothing is below
        ((0.0, 0.0, 0.0), 1, (0,)),
    ],
)
def test_the_run_ends_at_the_first_block_that_carries_nearly_the_most(
    blocks: tuple[float, ...], count: int, chosen: tuple[int, ...]
) -> None:
    assert choose_layers(report(blocks), tiny_base("mixtral"), count=count) == chosen


@pytest.mark.parametrize(
    ("blocks", "outputs", "chosen"),
    [
        ((0.5, 0.1, 0.1), (0.4, 0.8, 0.8), 1),  # at layer 0 the subject is not gathered
        ((0.1, 0.1, 0.5), (0.8, 0.8, 0.4), 0),  # at layer 2 it has been read
        ((0.1, 0.5, 0.1), (0.8, 0.4, 0.8), 1),  # a dip between layers that are good is noise
        ((0.1, 0.5, 0.1), (0.0, 0.0, 0.0), 1),
    ],
)
def test_the_subject_is_gathered_and_not_yet_read(
    blocks: tuple[float, ...], outputs: tuple[float, ...], chosen: int
) -> None:
    assert choose_layers(report(blocks, outputs), tiny_base("mixtral")) == (chosen,)


def test_a_block_that_is_less_by_no_more_than_an_error_is_as_good() -> None:
    best = torch.tensor([0.9, 0.1, 0.5, 0.5])
    alike, surely_less = best - torch.tensor([0.4, -0.3, 0.3, -0.1]), best - 0.3
    for first, chosen in ((alike, 0), (surely_less, 1)):
        blocks = [Effect.of(first), Effect.of(best)]
        layers = [LayerEffect(index, 4, {"moe": block}) for index, block in enumerate(blocks)]
        made = TraceReport("by hand", (), 3.0, 1, 0, 1, Effect(0.9, 0.01), tuple(layers))
        assert choose_layers(made, tiny_base("mixtral")) == (chosen,)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=6), st.data())
def test_an_effect_is_a_mean_with_its_standard_error(values: list[float], data: st.DataObject) -> None:
    others = data.draw(st.lists(st.floats(-1, 1), min_size=len(values), max_size=len(values)))
    one, other = (Effect.of(torch.tensor(some, dtype=torch.float64)) for some in (values, others))
    count, mean = len(values), sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (count - 1)
    assert one.mean == pytest.approx(mean, abs=1e-12)
    assert one.error == pytest.approx((variance / count) ** 0.5, abs=1e-9)
    assert one.error_beside(one) == 0
    assert one.error_beside(other) == pytest.approx(other.error_beside(one))
    assert one.error_beside(other) <= one.error + other.error + 1e-9


def test_dense_layers_are_never_chosen() -> None:
    assert choose_layers(report((0.9, 0.3, 0.1), dense=1), tiny_base("deepseek_v3"), count=2) == (1,)


def test_nothing_to_choose_from_is_refused() -> None:
    with pytest.raises(ConfigError, match="no layer of by hand with experts"):
        choose_layers(report((0.9,), dense=1), tiny_base("mixtral"))
    with pytest.raises(ConfigError, match="expected at least 1"):
        choose_layers(report((0.9,)), tiny_base("mixtral"), count=0)

"""The rule by which layers are chosen, on reports made by hand."""

from __future__ import annotations

import pytest

from moe_patch.errors import ConfigError
from moe_patch.tracing import Effect, LayerEffect, TraceReport, choose_layers
from tests.tiny import tiny_base


def report(*moe: float, dense: int = 0) -> TraceReport:
    layers = [
        LayerEffect(index, 0 if index < dense else 4, {"moe": Effect(effect, 0.01)})
        for index, effect in enumerate(moe)
    ]
    return TraceReport("by hand", (), 3.0, 1, 0, 1, Effect(0.9, 0.01), tuple(layers))


@pytest.mark.parametrize(
    ("effects", "count", "chosen"),
    [
        ((0.1, 0.5, 0.1), 1, (1,)),
        ((0.1, 0.45, 0.5), 1, (1,)),  # the first of those that carry nearly as much
        ((0.1, 0.2, 0.5), 2, (1, 2)),
        ((0.5, 0.2, 0.1), 3, (0,)),  # nothing is below
    ],
)
def test_the_run_ends_at_the_first_layer_that_carries_nearly_the_most(
    effects: tuple[float, ...], count: int, chosen: tuple[int, ...]
) -> None:
    assert choose_layers(report(*effects), tiny_base("mixtral"), count=count) == chosen


def test_dense_layers_are_never_chosen() -> None:
    assert choose_layers(report(0.9, 0.3, 0.1, dense=1), tiny_base("deepseek_v3"), count=2) == (1,)


def test_nothing_to_choose_from_is_refused() -> None:
    with pytest.raises(ConfigError, match="no layer of by hand with experts"):
        choose_layers(report(0.9, dense=1), tiny_base("mixtral"))
    with pytest.raises(ConfigError, match="expected at least 1"):
        choose_layers(report(0.9), tiny_base("mixtral"), count=0)

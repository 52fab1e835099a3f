"""Learning rates in the size of the weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from moe_patch.data.prompts import PromptStyle
from moe_patch.methods.rivals.examples import encode_example
from moe_patch.methods.rivals.fine_tuning import FineTuner, FineTuningOptions
from moe_patch.methods.rivals.weight_units import weight_unit
from tests.methods.builds import facts
from tests.tiny import tiny_base


@pytest.mark.parametrize("model_type", ["qwen3_moe", "gpt_oss"])
def test_the_unit_is_the_size_of_the_layers_weights(model_type: str) -> None:
    base = tiny_base(model_type)
    layer = base.layer(1)
    with layer.weights() as stacked:
        expected = float(stacked.square().mean().sqrt()) / 0.02
    assert weight_unit(layer, "published") == 1.0
    assert weight_unit(layer, "weights") == pytest.approx(expected, rel=1e-5)


def test_rate_and_bound_are_multiples_of_it() -> None:
    base = tiny_base("qwen3_moe", initializer_range=0.1)
    unit = weight_unit(base.layer(1), "weights")
    assert unit > 3
    example = encode_example(base, facts(1)[0], PromptStyle(fact_token="last"), "answer", end=False)

    def learnt(**options: Any) -> torch.Tensor:
        trainer = FineTuner(base, [1], FineTuningOptions(steps=3, **options))
        trainer.learn([example])
        trainer.off()
        dense = trainer.layers[1].dense()
        assert dense is not None
        return dense.value

    relative = learnt(units="weights", learning_rate=1e-3, bound=2e-3)
    absolute = learnt(learning_rate=1e-3 * unit, bound=2e-3 * unit)
    torch.testing.assert_close(relative, absolute)
    assert float(relative.abs().max()) == pytest.approx(2e-3 * unit, rel=1e-5)

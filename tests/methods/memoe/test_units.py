from __future__ import annotations

import statistics

import pytest
import torch

from moe_patch.data.facts import Fact
from moe_patch.data.prompts import PromptStyle, encode_fact
from moe_patch.methods.memoe.options import MEMoEOptions
from moe_patch.methods.memoe.units import stream_scale
from tests.targets.passes import stream_after
from tests.tiny import tiny_base

FACTS = tuple(Fact(f"fact-{i}", "{} lies in", f"Town{'x' * i}", "Land") for i in range(5))
LAST = PromptStyle(chat=False, fact_token="last")


@pytest.mark.parametrize("model_type", ["qwen3_moe", "mixtral"])
def test_the_scale_is_a_coordinates_size_in_the_stream(model_type: str) -> None:
    base = tiny_base(model_type)
    prompts = [encode_fact(base.reader, fact, LAST) for fact in FACTS]
    after = [stream_after(base, prompt, 1).abs().sort().values for prompt in prompts]
    middle = [values[(len(values) - 1) // 2].item() / 0.6745 for values in after]
    sizes = [
        values.clamp(max=4 * one).square().mean().sqrt().item()
        for values, one in zip(after, middle, strict=True)
    ]
    assert stream_scale(base, 1, FACTS, LAST) == pytest.approx(statistics.median(sizes), rel=1e-4)


def test_a_larger_stream_has_a_larger_scale() -> None:
    base = tiny_base("qwen3_moe")
    one = stream_scale(base, 0, FACTS, LAST)
    with torch.no_grad():
        hook = base.decoder_layers[0].register_forward_hook(lambda _module, _inputs, out: 100 * out)
        assert stream_scale(base, 0, FACTS, LAST) == pytest.approx(100 * one, rel=1e-4)
        hook.remove()


def test_the_rate_follows_the_width_unless_it_is_given() -> None:
    assert MEMoEOptions().rate(400) == pytest.approx(0.002)
    assert MEMoEOptions().rate(1600) == pytest.approx(0.001)
    assert MEMoEOptions(learning_rate=0.5).rate(1600) == 0.5

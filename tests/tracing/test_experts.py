"""Experts and coalitions of experts, on models whose experts are known, and against restoring the layer."""

from __future__ import annotations

import pytest
import torch

from moe_patch.data.prompts import PromptStyle
from moe_patch.errors import ConfigError, ModelError
from moe_patch.tracing import trace, trace_experts
from moe_patch.tracing.asked import ask_all
from moe_patch.tracing.experts import MOST
from moe_patch.tracing.runs import Run, Runner
from tests.tiny import tiny_base
from tests.tracing.test_trace import FACTS


@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss"])
def test_all_experts_together_restore_the_block_where_it_has_no_others(model_type: str) -> None:
    base = tiny_base(model_type)
    blocks = trace(base, FACTS, noise_samples=2, kinds=["moe"])
    (found,) = trace_experts(base, FACTS, [1], noise_samples=2)
    assert found.whole.mean == pytest.approx(blocks.layers[1].effects["moe"].mean, rel=1e-3)
    assert found.grown[-1].mean == pytest.approx(found.whole.mean, rel=1e-6)
    assert found.grown[0].mean == pytest.approx(0, abs=1e-3 * abs(found.whole.mean))


def test_shares_add_up_to_what_all_bring_back() -> None:
    base = tiny_base("qwen3_moe")
    (found,) = trace_experts(base, FACTS, [2], noise_samples=2)
    total = sum(each.facts * each.share.mean for each in found.experts if each.share is not None)
    assert total / len(FACTS) == pytest.approx(found.whole.mean - found.grown[0].mean, rel=1e-5)
    slots = base.model.config.num_experts_per_tok
    assert sum(each.facts for each in found.experts) == (slots + 1) * len(FACTS)
    assert [each.facts for each in found.experts if each.expert is None] == [len(FACTS)]


def test_one_expert_restored_equals_its_contribution_put_in_by_hand() -> None:
    base = tiny_base("mixtral")
    (found,) = trace_experts(base, FACTS[:1], [1], noise_samples=1, coalitions=False)
    assert found.grown == ()
    runner = Runner(base, ask_all(base, FACTS[:1], PromptStyle()), 3.0, seed=0)
    clean = runner.contributions([Run(0, None)], [1])[1]
    noisy = runner.contributions([Run(0, 0)], [1])[1]
    lost, _ = runner.run([Run(0, 0)])
    site = base.layer(1).experts
    for each in found.experts:
        if each.expert is None:
            continue
        own = clean.values[clean.experts == each.expert].sum(0)
        rest = noisy.values[noisy.experts != each.expert].sum(0)
        edited = runner._asked[0].prompt.edited

        def put(
            _module: object, _inputs: object, output: torch.Tensor, state: torch.Tensor = own + rest
        ) -> torch.Tensor:
            output = output.clone()
            output[edited] = state  # noqa: B023
            return output

        hook = site.register_forward_hook(put)
        restored, _ = runner.run([Run(0, 0)])
        hook.remove()
        assert each.alone.mean == pytest.approx(float(restored - lost), rel=1e-3, abs=1e-12)


def test_an_expert_that_adds_nothing_brings_nothing_back() -> None:
    base = tiny_base("mixtral")
    layer = base.layer(1)
    for expert in range(layer.num_experts):
        if expert != 2:
            layer.stored.data[expert].zero_()
    found = trace_experts(base, FACTS, [1], noise_samples=2)[0]
    for each in found.experts:
        if each.expert not in (2, None):
            assert each.share is not None
            assert abs(each.share.mean) < 1e-6 * abs(found.whole.mean) + 1e-15


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe"])
def test_the_coalition_that_is_needed_is_the_first_that_is_enough(model_type: str) -> None:
    base = tiny_base(model_type)
    traced = [trace_experts(base, [fact], [0], noise_samples=2, seed=3)[0] for fact in FACTS]
    carried = [found for found in traced if found.whole.mean > 0]
    assert carried, "none of these facts is carried by the layer: choose another seed"
    for found in carried:
        assert found.needed is not None
        size = int(found.needed.mean)
        assert found.grown[size].mean >= MOST * found.whole.mean
        assert all(each.mean < MOST * found.whole.mean for each in found.grown[:size])
    assert all(found.needed is None for found in traced if found.whole.mean <= 0)


def test_without_facts_or_experts_nothing_is_traced() -> None:
    with pytest.raises(ConfigError, match="0 facts"):
        trace_experts(tiny_base("mixtral"), [], [0])
    with pytest.raises(ModelError, match="dense"):
        trace_experts(tiny_base("deepseek_v3"), FACTS, [0])

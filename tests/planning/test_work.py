"""Counted work, against counts by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_patch.planning.machine import GPUS, Rates, gpu
from moe_patch.planning.outline import LayerOutline, ModelOutline
from moe_patch.planning.stages import Job, count, patch_bytes
from moe_patch.planning.work import Work, touched_parameters
from tests.planning.test_outline import outline_of

LAYER = LayerOutline(0, parameters=1_000, flops=500.0, experts=8, top_k=2, expert_parameters=100, d_key=10)
RATES = Rates("test", flops=1e9, bandwidth=1e9, algebra_flops=1e9, disk=1e9, hashing=1e9, call=0.0)


@pytest.fixture(scope="module")
def model() -> ModelOutline:
    return outline_of("qwen3_moe")


def test_one_token_reads_the_experts_that_it_visits() -> None:
    assert touched_parameters(LAYER, 1) == pytest.approx(200 + 2 * 100)


@given(st.integers(1, 10_000))
def test_more_tokens_read_more_and_never_more_than_all(tokens: int) -> None:
    few, many = touched_parameters(LAYER, tokens), touched_parameters(LAYER, tokens + 1)
    assert few <= many <= LAYER.parameters


def test_gradients_cost_as_much_again(model: ModelOutline) -> None:
    forward = Work("forward", 4, 8, 3, (0, 1), logits=4)
    search = replace(forward, kind="search")
    each = model.layers[0].token_flops + model.layers[1].token_flops
    assert forward.flops(model) == pytest.approx(3 * (32 * each + 4 * 2 * 32 * model.vocabulary))
    assert search.flops(model) == pytest.approx(2 * forward.flops(model))


def test_time_is_that_of_what_is_slower(model: ModelOutline) -> None:
    work = Work("forward", 4, 8, 1, (0,))
    assert replace(RATES, bandwidth=1e30).seconds(work, model) == pytest.approx(work.flops(model) / 1e9)
    assert replace(RATES, flops=1e30).seconds(work, model) == pytest.approx(work.moved(model) / 1e9)


def test_every_gpu_has_its_rates() -> None:
    assert all(gpu(name, 2).flops > 1e12 for name in GPUS)


def test_stages_that_a_job_does_not_have_are_left_out(model: ModelOutline) -> None:
    bare = Job(10, (1,))
    names = [stage.name for stage in count(model, bare).stages]
    assert names == ["open the model", "hash the base", "targets", "keys and solve", "ask the facts"]
    full = replace(bare, trace=True, own_text=True, corpus_tokens=1000, tucker=True)
    added = [stage.name for stage in count(model, full).stages if stage.name not in names]
    assert added == ["trace", "own text", "statistics", "null spaces", "factors"]


@pytest.mark.parametrize("facts", [1, 7, 64, 1000])
def test_work_grows_with_the_facts(model: ModelOutline, facts: int) -> None:
    def flops(number: int) -> float:
        stages = count(model, Job(number, (1,))).stages
        return sum(work.flops(model) for stage in stages for work in stage.works)

    more = flops(2 * facts) - flops(facts)  # controls are as many for any number of facts
    assert flops(4 * facts) - flops(2 * facts) == pytest.approx(2 * more, rel=0.05)


def test_a_patch_has_a_row_for_each_expert_of_a_fact(model: ModelOutline) -> None:
    layer = model.layers[1]
    assert patch_bytes(model, Job(5, (1,))) == 4 * 5 * (layer.top_k * layer.d_key + model.hidden)

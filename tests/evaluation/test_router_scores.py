"""Which function makes a router's gates, read off what it does, for routers of each kind."""

from __future__ import annotations

import pytest
import torch

from moe_patch.base.capture import ExpertCall
from moe_patch.evaluation.router_scores import GateFunction, gate_function, routing_distribution
from moe_patch.evaluation.routing import record_routing
from tests.tiny import CONFIGS, tiny_base

PROMPTS = ["The capital of Ys is", "In Lyonesse they speak", "Avalon is"]

KINDS: dict[str, GateFunction] = {
    "qwen3_moe": "softmax",
    "mixtral": "softmax",
    "gpt_oss": "softmax",
    "deepseek_v2": "softmax",
    "deepseek_v3": "sigmoid",
    "glm4_moe": "sigmoid",
    "minimax_m2": "sigmoid",
    "deepseek_v4": "sqrtsoftplus",
}


@pytest.mark.parametrize("model_type", [name for name in KINDS if name in CONFIGS])
def test_routers_are_known_by_their_gates(model_type: str) -> None:
    base = tiny_base(model_type)
    found = {
        gate_function(call) for call in record_routing(base, PROMPTS).values() if call.scores is not None
    }
    assert found == {KINDS[model_type]}


def call(values: torch.Tensor, scores: torch.Tensor, k: int, *, renormalised: bool = True) -> ExpertCall:
    gates, experts = values.topk(k)
    return ExpertCall(None, gates / gates.sum(-1, keepdim=True) if renormalised else gates, experts, scores)


def scores(seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(64, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gates_of_half_precision_and_of_one_choice_are_enough(k: int, dtype: torch.dtype) -> None:
    logits = scores()
    for name, values in (("softmax", logits.softmax(-1)), ("sigmoid", logits.sigmoid())):
        assert gate_function(call(values.to(dtype), logits, k, renormalised=k > 1)) == name
        assert gate_function(call(2.5 * values.to(dtype), logits, k, renormalised=False)) == name


def test_scores_that_are_gates_already_are_taken_as_they_are() -> None:
    logits = scores()
    assert gate_function(call(logits.softmax(-1), logits.softmax(-1), 2)) == "none"
    assert gate_function(call(logits.sigmoid(), logits.sigmoid(), 2)) == "none"


def test_gates_that_nothing_explains_count_as_a_softmax() -> None:
    logits = scores()
    assert gate_function(call(scores(1).softmax(-1), logits, 3)) == "softmax"


def test_slots_that_reached_no_expert_do_not_count() -> None:
    logits = scores()
    whole = call(logits.sigmoid(), logits, 3)
    gates, experts = whole.gates.clone(), whole.experts.clone()
    gates[::2, 2], experts[::2, 2] = 0.0, logits.shape[1]
    assert gate_function(ExpertCall(None, gates, experts, logits)) == "sigmoid"


def test_a_distribution_is_the_functions_values_to_a_sum_of_one() -> None:
    logits = scores().double()
    expected = {
        "softmax": logits.softmax(-1),
        "sigmoid": (1 / (1 + (-logits).exp())) / (1 / (1 + (-logits).exp())).sum(-1, keepdim=True),
        "sqrtsoftplus": (1 + logits.exp()).log().sqrt()
        / (1 + logits.exp()).log().sqrt().sum(-1, keepdim=True),
    }
    for name, wanted in expected.items():
        assert torch.allclose(routing_distribution(logits, name).exp(), wanted, atol=1e-12)  # type: ignore[arg-type]
    softmax = logits.softmax(-1)
    assert torch.allclose(routing_distribution(softmax, "none").exp(), softmax)

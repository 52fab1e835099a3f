"""Limits and signs of the losses, and the schedule of the learning rate."""

from __future__ import annotations

import math

import pytest
import torch

from moe_patch.methods.memoe.losses import adaptive_weight, balance_coefficient, focal_loss, kl_divergence
from moe_patch.methods.memoe.training import warm_cosine


def test_rare_knowledge_weighs_more_and_is_held_less() -> None:
    g = torch.tensor([0.0, 0.6, 1.0])
    weight = adaptive_weight(g, gamma=1.0, tau=0.6)
    assert weight.tolist() == pytest.approx([(1 + math.tanh(-0.6)) / 2, 0.5, (1 + math.tanh(0.4)) / 2])
    held = balance_coefficient(g, gamma=0.5)
    assert held.tolist() == pytest.approx([1 / (1 + math.exp(0.5 * x)) for x in g.tolist()])


def test_the_balance_term_is_a_penalty_that_is_nothing_for_the_unedited_model() -> None:
    same, other = torch.randn(3, 7).log_softmax(-1), torch.randn(3, 7).log_softmax(-1)
    torch.testing.assert_close(kl_divergence(same, same), torch.zeros(3))
    assert bool((kl_divergence(other, same) > 0).all())


def test_focal_guidance_forgets_what_is_right_already() -> None:
    r = torch.tensor([0.1, 0.5, 0.99])
    assert focal_loss(r.log(), 1.5).tolist() == pytest.approx(
        [-((1 - x) ** 1.5) * math.log(x) for x in r.tolist()], rel=1e-4
    )
    assert focal_loss(torch.zeros(1), 1.5).item() == 0.0


def test_the_rate_rises_for_a_tenth_and_then_follows_a_cosine() -> None:
    factor = warm_cosine(100, 0.1)
    assert [factor(step) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert factor(55) == pytest.approx(0.5)
    assert factor(99) < 1e-3

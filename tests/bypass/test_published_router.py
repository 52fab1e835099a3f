"""The published router against the paper's equations, written out in loops for one prompt at a time."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from moe_patch.bypass import Bypass
from tests.bypass.bypasses import WIDTH, config, random_bypass


def published(**changes: Any) -> Bypass:
    return random_bypass(router="published", scale=0.15, alpha=0.7, beta=1.3, **changes)


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def times(weight: Tensor, vector: list[float]) -> list[float]:
    return [dot(row, vector) for row in weight.tolist()]


def attention(query: list[float], keys: list[list[float]], values: list[list[float]]) -> list[float]:
    """softmax(q K^T / sqrt(d)) V for one query."""
    scores = [math.exp(dot(query, key) / math.sqrt(len(query))) for key in keys]
    shares = [score / sum(scores) for score in scores]
    return [dot(shares, [value[i] for value in values]) for i in range(len(values[0]))]


def equations(router: Any, prompt: list[list[float]]) -> list[float]:
    """W_r (alpha A + beta A^) at the last token, with e^ = W_up W_down e; e are the rows of `prompt`."""
    adapted = [times(router.up.weight, times(router.down.weight, e)) for e in prompt]
    keys, values = ([times(w, e) for e in prompt] for w in (router.key.weight, router.value.weight))
    keys_, values_ = ([times(w, e) for e in adapted] for w in (router.key.weight, router.value.weight))
    a = attention(times(router.query.weight, adapted[-1]), keys, values)  # e^ asks e
    a_ = attention(times(router.query.weight, prompt[-1]), keys_, values_)  # e asks e^
    alpha, beta = router.alpha.item(), router.beta.item()
    return times(router.output.weight, [alpha * x + beta * y for x, y in zip(a, a_, strict=True)])


@pytest.mark.parametrize("width", [None, 5])
def test_it_is_the_papers_equations(width: int | None) -> None:
    router, states = published(attention_width=width).router, torch.randn(6, WIDTH)
    found = router(states[None], torch.ones(1, 6, dtype=torch.bool))[0]
    wanted = torch.tensor(equations(router, states.tolist()))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_padding_on_either_side_and_answers_have_no_say() -> None:
    router, states = published(attention_width=7).router, torch.randn(3, 8, WIDTH)
    prompt = torch.ones(3, 8, dtype=torch.bool)
    prompt[0, :3], prompt[1, 6:], prompt[2, :2], prompt[2, 5:] = False, False, False, False
    states[~prompt] = 50.0
    wanted = [equations(router, row[real].tolist()) for row, real in zip(states, prompt, strict=True)]
    torch.testing.assert_close(router(states, prompt), torch.tensor(wanted), rtol=1e-4, atol=1e-4)


def test_all_that_the_paper_learns_is_learnt_and_there_are_no_biases() -> None:
    torch.manual_seed(0)
    router = Bypass(config(router="published", alpha=0.7, beta=1.3, attention_width=5)).router
    assert {name: tuple(weight.shape) for name, weight in router.named_parameters()} == {
        "alpha": (1,),
        "beta": (1,),
        "down.weight": (6, WIDTH),
        "up.weight": (WIDTH, 6),
        "query.weight": (5, WIDTH),
        "key.weight": (5, WIDTH),
        "value.weight": (5, WIDTH),
        "output.weight": (4, 5),
    }
    assert (router.alpha.item(), router.beta.item()) == pytest.approx((0.7, 1.3))
    router(torch.randn(2, 4, WIDTH), torch.ones(2, 4, dtype=torch.bool))[:, 0].sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in router.parameters())

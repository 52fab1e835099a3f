"""Routers that choose experts which complete each other, and the neurons that these hold."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recipes.realmoe.dealing import deal_neurons, shares
from recipes.realmoe.routing import route, tree_router


def clustered(seed: int, tokens: int = 400) -> tuple[Tensor, Tensor]:
    """Inputs (T, 16) around a mean, and the activity (T, 24) of neurons that look at them."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(tokens, 16, generator=generator) + 2 * torch.randn(16, generator=generator)
    return inputs, (inputs @ torch.randn(16, 24, generator=generator)).relu() + 0.1


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), top_k=st.sampled_from([2, 3, 4]))
def test_a_token_gets_one_expert_of_each_pair_of_its_half(seed: int, top_k: int) -> None:
    inputs, activity = clustered(seed)
    rows, parts = tree_router(inputs, activity, top_k, seed=0)
    weights, chosen = route(inputs, rows, top_k)
    pairs = (chosen // 2).sort(-1).values  # (T, top_k)
    halves = pairs // top_k
    assert rows.shape == (4 * top_k, 16)
    whole = (halves == halves[:, :1]).all(-1) & (pairs.diff(dim=-1) == 1).all(-1)
    assert whole.float().mean() > 0.95
    torch.testing.assert_close(weights.sum(-1), torch.ones(len(inputs)))
    for half in parts.chunk(2):
        assert torch.equal(half[::2], half[1::2])
        assert (half[::2].sum(0) == 1).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_experts_that_together_have_room_for_all_neurons_hold_all(seed: int) -> None:
    inputs, activity = clustered(seed)
    rows, parts = tree_router(inputs, activity, 2, seed=0)
    chosen = route(inputs, rows, 2)[1]
    pairs = chosen // 2
    whole = (pairs[:, 0] != pairs[:, 1]) & (pairs[:, 0] // 2 == pairs[:, 1] // 2)  # of one half, no siblings
    chosen, energy = chosen[whole], activity[whole].square()
    neurons = deal_neurons(energy, chosen, parts, width=12, apart=0.0)
    held = torch.zeros(8, 24).scatter_(1, neurons, 1.0)
    reached = held[chosen].sum(1)  # (T, N)
    assert (reached == 1).all()
    even = torch.full(chosen.shape, 0.5)
    torch.testing.assert_close(shares(energy, even, chosen, neurons), torch.full((8, 12), 2.0))


def test_siblings_that_should_differ_hold_fewer_neurons_of_each_other() -> None:
    inputs, activity = clustered(0)
    rows, parts = tree_router(inputs, activity, 2, seed=0)
    chosen = route(inputs, rows, 2)[1]

    def shared(apart: float) -> float:
        neurons = deal_neurons(activity.square(), chosen, parts, width=9, apart=apart)
        held = torch.zeros(8, 24).scatter_(1, neurons, 1.0)
        return float((held[::2] * held[1::2]).sum())

    assert shared(0.9) < shared(0.0)

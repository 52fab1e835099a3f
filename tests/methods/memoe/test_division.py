"""Dividing facts among experts: a first share for one, and clusters of equal size for the rest."""

from __future__ import annotations

from itertools import combinations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_patch.methods.memoe.division import balanced_sizes, divide_facts

VALUES = st.lists(st.floats(0, 100, allow_nan=False), min_size=0, max_size=14)


def cost(values: torch.Tensor, sizes: list[int]) -> float:
    parts = torch.split(values.double(), sizes)
    return sum(float((part - part.mean()).square().sum()) for part in parts if len(part))


@settings(deadline=None, max_examples=60)
@given(VALUES, st.integers(1, 4))
def test_clusters_are_balanced_and_the_best_of_all_balanced_ones(values: list[float], clusters: int) -> None:
    ascending = torch.tensor(sorted(values))
    sizes = balanced_sizes(ascending, clusters)
    small, larger = divmod(len(values), clusters)
    assert sorted(sizes) == [small] * (clusters - larger) + [small + 1] * larger
    options = [
        [small + (i in chosen) for i in range(clusters)] for chosen in combinations(range(clusters), larger)
    ]
    assert cost(ascending, sizes) <= min(cost(ascending, option) for option in options) + 1e-6


@settings(deadline=None, max_examples=60)
@given(VALUES, st.integers(1, 5), st.floats(0, 1))
def test_the_most_frequent_share_goes_first_and_experts_are_in_order_of_rarity(
    values: list[float], experts: int, share: float
) -> None:
    gece = torch.tensor(values, dtype=torch.float64)
    expert = divide_facts(gece, experts, share)
    assert int((expert == 0).sum()) == (round(share * len(values)) if experts > 1 else len(values))
    in_order = expert[gece.argsort(stable=True)]
    assert bool((in_order.diff() >= 0).all())
    if experts > 1:
        rest = torch.bincount(expert, minlength=experts)[1:]
        assert int(rest.max() - rest.min()) <= 1


def test_the_published_division_of_ten_facts_among_five_experts() -> None:
    assert torch.bincount(divide_facts(torch.arange(10.0), 5, 0.3)).tolist() in (
        [3, 2, 2, 2, 1],
        [3, 1, 2, 2, 2],
    )

"""Dividing facts among experts: a first share for one, and clusters of equal size for the rest."""

from __future__ import annotations

from itertools import combinations, combinations_with_replacement

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_patch.methods.memoe.division import balanced_sizes, divide_facts, soft_sizes

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


def price(values: torch.Tensor, sizes: list[int], weight: float) -> float:
    """Eq. 12 with a soft balance: what is left of the spread, and the squares of the shares' distances."""
    whole = cost(values, [len(values)]) or 1.0
    shares = [size / len(values) - 1 / len(sizes) for size in sizes]
    return cost(values, sizes) / whole + weight * sum(share**2 for share in shares)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 100), min_size=1, max_size=11), st.integers(1, 4), st.floats(0, 30))
def test_soft_clusters_are_the_best_of_all_clusterings(
    values: list[int], clusters: int, weight: float
) -> None:
    ascending = torch.tensor(sorted(values), dtype=torch.float64)
    sizes = soft_sizes(ascending, clusters, weight)
    assert len(sizes) == clusters
    assert sum(sizes) == len(values)
    ends = combinations_with_replacement(range(len(values) + 1), clusters - 1)
    every = [[b - a for a, b in zip((0, *end), (*end, len(values)), strict=True)] for end in ends]
    best = min(price(ascending, option, weight) for option in every)
    assert price(ascending, sizes, weight) <= best + 1e-9


def test_no_border_between_soft_clusters_can_be_moved_at_a_gain() -> None:
    values = torch.randn(300, generator=torch.Generator().manual_seed(0)).exp().sort().values
    sizes = soft_sizes(values, 4, 1.0)
    for border in range(3):
        for step in (-1, 1):
            moved = list(sizes)
            moved[border] += step
            moved[border + 1] -= step
            if min(moved) >= 0:
                assert price(values, moved, 1.0) >= price(values, sizes, 1.0) - 1e-12


def test_the_weight_moves_a_soft_division_from_its_values_to_equal_sizes() -> None:
    values = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 9.0, 9.1])
    assert soft_sizes(values, 2, 0.0) == [6, 2]
    assert soft_sizes(values, 2, 1e6) == balanced_sizes(values, 2) == [4, 4]
    first = [soft_sizes(values, 2, weight)[0] for weight in (0.0, 1.0, 10.0, 100.0)]
    assert first == sorted(first, reverse=True)
    assert torch.bincount(divide_facts(values, 3, 0.25, 0.0)).tolist() == [2, 4, 2]
    assert soft_sizes(torch.zeros(0), 3, 1.0) == [0, 0, 0]
    assert soft_sizes(torch.ones(6), 3, 1.0) == [2, 2, 2]


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

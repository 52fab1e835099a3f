"""Dividing facts among experts, by how frequent their knowledge is."""

from __future__ import annotations

import torch
from torch import Tensor


def divide_facts(gece: Tensor, experts: int, first_share: float, size_weight: float | None = None) -> Tensor:
    """The expert (T,) of each fact.

    Facts are sorted by GECE, the most frequent knowledge first. The first `first_share` of them go to expert
    0. The rest are clustered by GECE among the other experts, in clusters of equal size, or with a
    `size_weight` in clusters whose sizes are held together by a penalty, as published (Eq. 12).

    Args:
        gece: (T,) GECE of each fact.
        experts: n, at least one; with one, all facts go to it.
        first_share: p, from 0 to 1.
        size_weight: how much unequal sizes count against `soft_sizes`' distances; None for equal sizes.
    """
    order = gece.argsort(stable=True)
    expert = torch.zeros(len(gece), dtype=torch.int64)
    first = round(first_share * len(gece)) if experts > 1 else len(gece)
    start, rest = first, gece[order[first:]]
    clusters = experts - 1
    sizes = balanced_sizes(rest, clusters) if size_weight is None else soft_sizes(rest, clusters, size_weight)
    for number, size in enumerate(sizes, start=1):
        expert[order[start : start + size]] = number
        start += size
    return expert


def balanced_sizes(ascending: Tensor, clusters: int) -> list[int]:
    """Sizes of clusters of neighbouring values; sizes differ by at most one.

    The clustering has the least sum of squared distances to the clusters' means of all such clusterings. It
    is found exactly, by dynamic programming over the clusters and the number of larger ones among them.

    Args:
        ascending: (N,) values in ascending order.
        clusters: how many clusters.
    """
    if not clusters:
        return []
    small, larger = divmod(len(ascending), clusters)
    values = ascending.double()
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}  # by clusters of the larger size so far
    for number in range(clusters):
        found: dict[int, tuple[float, list[int]]] = {}
        for used, (cost, sizes) in best.items():
            start = number * small + used
            for more in (0, 1):
                if used + more > larger or larger - used - more > clusters - number - 1:
                    continue
                total = cost + _spread(values[start : start + small + more])
                if used + more not in found or total < found[used + more][0]:
                    found[used + more] = total, [*sizes, small + more]
        best = found
    return best[larger][1]


def soft_sizes(ascending: Tensor, clusters: int, size_weight: float) -> list[int]:
    """Sizes of clusters of neighbouring values, which may differ at a price.

    Of all clusterings of the values v they have the least

        sum_i (v_i - mean of i's cluster)^2 / sum_i (v_i - mean)^2  +  size_weight sum_c (N_c / N - 1 / C)^2

    with both terms free of scale. Clusters may be empty. The least is found exactly, by dynamic programming
    over the clusters and where they end, in time C N^2. For given sizes, neighbours are always best.

    Args:
        ascending: (N,) values in ascending order.
        clusters: C, how many clusters.
        size_weight: the price of unequal sizes, at least zero.
    """
    count = len(ascending)
    if not clusters or not count:
        return [0] * clusters
    values = ascending.double() - ascending.double().mean()
    whole = float(values.square().sum()) or 1.0  # of equal values: no cluster has a spread
    sums, squares = _running(values), _running(values.square())  # (N + 1,)
    places = torch.arange(count + 1)
    best = torch.full((count + 1,), torch.inf, dtype=torch.float64)
    best[0] = 0.0  # the least price of the values up to each place, in no cluster so far
    starts: list[Tensor] = []
    for _ in range(clusters):
        found, start = torch.empty_like(best), torch.zeros_like(places)
        for end in range(count + 1):
            size = end - places[: end + 1]  # (end + 1,), by where the cluster starts
            total = sums[end] - sums[: end + 1]
            spread = squares[end] - squares[: end + 1] - total.square() / size.clamp_min(1)
            price = spread.clamp_min(0) / whole + size_weight * (size / count - 1 / clusters).square()
            found[end], start[end] = (best[: end + 1] + price).min(0)
        best = found
        starts.append(start)
    return _sizes(starts, count)


def _sizes(starts: list[Tensor], count: int) -> list[int]:
    """The clusters' sizes from where, by its end, each of them best starts."""
    sizes, end = [], count
    for start in reversed(starts):
        sizes.append(end - int(start[end]))
        end = int(start[end])
    return sizes[::-1]


def _running(values: Tensor) -> Tensor:
    return torch.cat([values.new_zeros(1), values.cumsum(0)])


def _spread(values: Tensor) -> float:
    return float((values - values.mean()).square().sum()) if len(values) else 0.0

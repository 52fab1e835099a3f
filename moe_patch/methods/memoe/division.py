"""Dividing facts among experts, by how frequent their knowledge is."""

from __future__ import annotations

import torch
from torch import Tensor


def divide_facts(gece: Tensor, experts: int, first_share: float) -> Tensor:
    """The expert (T,) of each fact.

    Facts are sorted by GECE, the most frequent knowledge first. The first `first_share` of them go to expert
    0. The rest are clustered by GECE among the other experts, in clusters of equal size.

    Args:
        gece: (T,) GECE of each fact.
        experts: n, at least one; with one, all facts go to it.
        first_share: p, from 0 to 1.
    """
    order = gece.argsort(stable=True)
    expert = torch.zeros(len(gece), dtype=torch.int64)
    first = round(first_share * len(gece)) if experts > 1 else len(gece)
    start = first
    for number, size in enumerate(balanced_sizes(gece[order[first:]], experts - 1), start=1):
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


def _spread(values: Tensor) -> float:
    return float((values - values.mean()).square().sum()) if len(values) else 0.0

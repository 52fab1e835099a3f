"""Which texts share a pass, so that little of what it computes is padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch

_ON_CPU, _ON_GPU = 64, 2048


def cost_beside(device: torch.device) -> int:
    """What a pass costs beside its tokens, in tokens that take about as long."""
    return _ON_CPU if device.type == "cpu" else _ON_GPU


def divide(tokens: Sequence[int], sizes: Sequence[int], rows: int, most: int, beside: int) -> list[list[int]]:
    """G groups of texts divided into passes: the numbers of the groups of each.

    A pass computes each of its texts at the length of its longest. The division has the least sum of these
    tokens and of what passes cost beside them. No group is divided.

    Args:
        tokens: (G,) those that a pass computes of each text of a group.
        sizes: (G,) members of each group.
        rows: texts of a member.
        most: members of a pass, unless one group alone has more.
        beside: what a pass costs beside its tokens, in tokens.
    """
    order = sorted(range(len(tokens)), key=lambda number: tokens[number])
    least = [(0, 0)]  # for the first n groups in order: their cost, and where the last pass begins
    for end in range(1, len(order) + 1):
        found: list[tuple[int, int]] = []
        members = 0
        for begin in range(end - 1, -1, -1):
            members += sizes[order[begin]]
            if members > most and found:
                break
            cost = rows * members * tokens[order[end - 1]] + beside
            found.append((least[begin][0] + cost, begin))
        least.append(min(found))
    passes: list[list[int]] = []
    end = len(order)
    while end:
        begin = least[end][1]
        passes.append(order[begin:end])
        end = begin
    return passes[::-1]

"""Cooperative games: what players bring about alone, together, and each in all the company it can have.

A coalition is a set of players' numbers. Several games with the same number of players, such as one for each
fact, are played side by side, so that what many coalitions are worth can be asked at once.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations
from math import factorial

import torch
from torch import Tensor

Coalition = frozenset[int]
Worth = Callable[[Sequence[tuple[int, Coalition]]], Sequence[float]]
"""Called with games and coalitions in them; returns what each coalition is worth in its game."""

EXACT = 5  # players up to which every coalition is tried
ORDERS = 6  # in which players join otherwise, and as many backwards


def every_coalition(players: int) -> list[Coalition]:
    """All coalitions, the empty one first and smaller ones before larger ones."""
    return [frozenset(some) for size in range(players + 1) for some in combinations(range(players), size)]


def joining_orders(players: int, count: int, seed: int) -> list[list[int]]:
    """`count` random orders of all players, and each of them backwards, which lowers the variance."""
    chance = random.Random(seed)
    orders = [chance.sample(range(players), players) for _ in range(count)]
    return [order for one in orders for order in (one, one[::-1])]


def shapley_values(worth: Worth, games: int, players: int, seed: int = 0) -> Tensor:
    """The Shapley values (T, P): in each game, a player's mean gain for those that joined before it.

    They sum to what all players are worth beyond the empty coalition. With at most `EXACT` players, the mean
    is over all orders of joining. Otherwise it is over some (Castro, Gomez and Tejada, "Polynomial
    calculation of the Shapley value based on sampling", 2009), and the sum is the same.
    """
    exact = players <= EXACT
    orders = [] if exact else joining_orders(players, ORDERS, seed)
    tried = every_coalition(players) if exact else list(dict.fromkeys(_begun(orders)))
    known = _asked(worth, games, tried)
    if exact:
        return torch.stack([_exact(known, player, players) for player in range(players)], dim=1)
    gained = torch.zeros(games, players, dtype=torch.float64)  # (T, P)
    for order in orders:
        for place, player in enumerate(order):
            gained[:, player] += known[frozenset(order[: place + 1])] - known[frozenset(order[:place])]
    return gained / len(orders)


def _begun(orders: Sequence[Sequence[int]]) -> list[Coalition]:
    """The coalitions that form while players join in these orders."""
    return [frozenset(order[:size]) for order in orders for size in range(len(order) + 1)]


def _asked(worth: Worth, games: int, tried: Sequence[Coalition]) -> dict[Coalition, Tensor]:
    """What coalitions are worth in all games, (T,) each."""
    pairs = [(game, coalition) for coalition in tried for game in range(games)]
    table = torch.tensor(worth(pairs), dtype=torch.float64).view(len(tried), games)
    return dict(zip(tried, table, strict=True))


def _exact(known: dict[Coalition, Tensor], player: int, players: int) -> Tensor:
    """The Shapley values (T,) of a player, from what every coalition is worth."""
    terms = [
        _weight(len(others), players) * (known[others | {player}] - value)
        for others, value in known.items()
        if player not in others
    ]
    return torch.stack(terms).sum(0)


@cache
def _weight(others: int, players: int) -> float:
    """The share of all orders in which a player joins right after a certain set of `others`."""
    return factorial(others) * factorial(players - others - 1) / factorial(players)


def grow_coalitions(worth: Worth, games: int, players: int) -> tuple[list[list[int]], Tensor]:
    """In each game, players join one by one, always the one with whom the coalition is then worth most.

    Returns:
        the order of joining in each game, and what the coalition of each size is worth, (T, P + 1).
    """
    orders: list[list[int]] = [[] for _ in range(games)]
    values = [list(worth([(game, frozenset()) for game in range(games)]))]
    for _ in range(players):
        asked = [
            (game, player)
            for game, order in enumerate(orders)
            for player in range(players)
            if player not in order
        ]
        found = worth([(game, frozenset((*orders[game], player))) for game, player in asked])
        best: dict[int, tuple[float, int]] = {}
        for (game, player), value in zip(asked, found, strict=True):
            best[game] = max(best.get(game, (value, -player)), (value, -player))  # of equals, the first
        for game, order in enumerate(orders):
            order.append(-best[game][1])
        values.append([best[game][0] for game in range(games)])
    return orders, torch.tensor(values, dtype=torch.float64).T

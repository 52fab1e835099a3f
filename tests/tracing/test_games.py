"""Shapley values and growing coalitions, against the average over all orders and against closed forms."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_patch.tracing.games import EXACT, Coalition, Worth, every_coalition, grow_coalitions, shapley_values


def game(tables: Sequence[dict[Coalition, float]]) -> Worth:
    return lambda asked: [tables[number][coalition] for number, coalition in asked]


@st.composite
def tables(draw: st.DrawFn) -> tuple[int, list[dict[Coalition, float]]]:
    players = draw(st.integers(1, EXACT))
    worth = st.floats(-1, 1, width=32)
    games = draw(st.integers(1, 2))
    return players, [{each: draw(worth) for each in every_coalition(players)} for _ in range(games)]


@settings(max_examples=20, deadline=None)
@given(tables())
def test_shapley_values_are_means_over_all_orders(drawn: tuple[int, list[dict[Coalition, float]]]) -> None:
    players, games = drawn
    found = shapley_values(game(games), len(games), players)
    for number, table in enumerate(games):
        gained = torch.zeros(players, dtype=torch.float64)
        orders = list(permutations(range(players)))
        for order in orders:
            for size, player in enumerate(order):
                gained[player] += table[frozenset(order[: size + 1])] - table[frozenset(order[:size])]
        torch.testing.assert_close(found[number], gained / len(orders))


@pytest.mark.parametrize("players", [EXACT, EXACT + 3])
def test_where_players_only_add_up_each_gets_its_own(players: int) -> None:
    own = [0.1 * (player + 1) for player in range(players)]

    def worth(asked: Sequence[tuple[int, Coalition]]) -> list[float]:
        return [7.0 + sum(own[player] for player in coalition) for _, coalition in asked]

    assert shapley_values(worth, 1, players)[0].tolist() == pytest.approx(own)


def test_with_many_players_the_values_still_sum_to_what_all_are_worth() -> None:
    chance = torch.Generator().manual_seed(0)
    known: dict[Coalition, float] = {}

    def worth(asked: Sequence[tuple[int, Coalition]]) -> list[float]:
        return [known.setdefault(one, float(torch.rand(1, generator=chance))) for _, one in asked]

    values = shapley_values(worth, 1, EXACT + 2)
    assert float(values.sum()) == pytest.approx(known[frozenset(range(EXACT + 2))] - known[frozenset()])


def test_two_that_only_help_together_share_what_they_bring() -> None:
    table = {each: float({0, 1} <= each) for each in every_coalition(3)}
    assert shapley_values(game([table]), 1, 3)[0].tolist() == pytest.approx([0.5, 0.5, 0.0])


@settings(max_examples=20, deadline=None)
@given(tables())
def test_a_coalition_grows_by_its_best_next_player(drawn: tuple[int, list[dict[Coalition, float]]]) -> None:
    players, games = drawn
    orders, values = grow_coalitions(game(games), len(games), players)
    for table, order, reached in zip(games, orders, values.tolist(), strict=True):
        assert sorted(order) == list(range(players))
        assert reached == [table[frozenset(order[:size])] for size in range(players + 1)]
        for size in range(players):
            others = [table[frozenset((*order[:size], player))] for player in order[size:]]
            assert reached[size + 1] == max(others)

"""GRACE's rules for keys and radii, held to a second writing of the paper's algorithm."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_patch.methods.rivals.deferral import GAP, KeySet, take_all

EDITS = st.lists(
    st.tuples(st.tuples(st.integers(-6, 6), st.integers(-6, 6)), st.sampled_from("ab")), max_size=12
)


@given(EDITS, st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0]))
def test_keys_and_radii_are_those_of_the_algorithm(edits, epsilon: float) -> None:
    found = KeySet(epsilon)
    queries = torch.tensor([point for point, _ in edits], dtype=torch.float32).view(-1, 2)
    taken = take_all(found, queries, [label for _, label in edits])
    book, expected = by_the_book(edits, epsilon)
    assert taken.tolist() == expected
    assert [tuple(key.tolist()) for key in found.keys] == [entry["key"] for entry in book]
    assert found.radii == pytest.approx([entry["radius"] for entry in book], abs=1e-6)
    assert found.labels == [entry["label"] for entry in book]


def by_the_book(edits, epsilon: float) -> tuple[list[dict], list[int]]:
    """Algorithm 1 of the paper, over dictionaries and Python's floats."""
    book: list[dict] = []
    taken = []
    for point, label in edits:
        new = {"key": tuple(map(float, point)), "label": label, "radius": epsilon}
        if not book:
            book.append(new)
            taken.append(0)
            continue
        far = [math.dist(entry["key"], point) for entry in book]
        nearest = max(range(len(book)), key=lambda n: (-round(far[n], 9), n))
        entry, distance = book[nearest], far[nearest]
        within = distance - entry["radius"] - epsilon <= 1e-9
        if within and entry["label"] == label:
            entry["radius"] = max(entry["radius"], distance)
            taken.append(nearest)
            continue
        if within:
            entry["radius"] = distance / 2 - GAP
            new["radius"] = distance / 2
        book.append(new)
        taken.append(len(book) - 1)
    return book, taken


@given(EDITS)
def test_two_balls_that_were_split_do_not_meet(edits) -> None:
    found = KeySet(1.0)
    for point, label in edits:
        count = len(found.keys)
        before = list(found.radii)
        found.take(torch.tensor(point, dtype=torch.float32), label)
        shrunk = [n for n in range(count) if found.radii[n] < before[n] - 1e-9]
        for other in shrunk:
            apart = math.dist(found.keys[other].tolist(), point)
            assert found.radii[other] + found.radii[-1] < apart or apart == 0

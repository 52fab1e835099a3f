"""Which facts are searched for in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_patch.data.facts import Fact
from moe_patch.data.prompts import encode_fact
from moe_patch.targets import search
from moe_patch.targets.groups import passes_of
from moe_patch.targets.options import TargetOptions
from moe_patch.targets.passes import divide
from moe_patch.targets.search import find_targets
from tests import published
from tests.tiny import tiny_base

STYLE = TargetOptions().style


def divisions(ends: int) -> Iterator[list[tuple[int, int]]]:
    """Every way to divide `ends` things in a row into runs."""
    if ends == 0:
        yield []
    for begin in range(ends):
        for before in divisions(begin):
            yield [*before, (begin, ends)]


def cost(
    passes: Sequence[Sequence[int]], sizes: Sequence[int], tokens: Sequence[int], rows: int, beside: int
) -> int:
    """What passes compute, and what they cost beside it."""
    return sum(
        beside + rows * sum(sizes[group] for group in some) * max(tokens[group] for group in some)
        for some in passes
    )


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 60)), min_size=1, max_size=7),
    st.integers(1, 40),
    st.integers(1, 8),
    st.integers(0, 1000),
)
def test_no_division_costs_less(found: list[tuple[int, int]], rows: int, most: int, beside: int) -> None:
    sizes, tokens = [size for size, _ in found], [length for _, length in found]
    chosen = divide(tokens, sizes, rows, most, beside)
    assert sorted(number for some in chosen for number in some) == list(range(len(sizes)))
    assert all(len(some) == 1 or sum(sizes[group] for group in some) <= most for some in chosen)
    order = sorted(range(len(sizes)), key=tokens.__getitem__)
    others = ([order[begin:end] for begin, end in runs] for runs in divisions(len(order)))
    allowed = [
        some
        for some in others
        if all(len(part) == 1 or sum(sizes[group] for group in part) <= most for part in some)
    ]
    assert cost(chosen, sizes, tokens, rows, beside) == min(
        cost(some, sizes, tokens, rows, beside) for some in allowed
    )


LONG = "Rome, in which one sees so many of those who came in by the many roads to it, is in {}"
FACTS = (
    Fact("tail", "The {} that one sees in so many of the many old pictures of the old days is", "ox", "old"),
    Fact("short", "{} has", "Oz", "a"),
    Fact("left", LONG, "Peru", "Italy"),
    Fact("middle", "In {}, they speak", "Spain", "Norse"),
)


def test_facts_of_about_one_length_from_the_subject_on_share_a_pass() -> None:
    base = tiny_base("qwen3_moe")
    tails = [
        len(prompt.ids) - prompt.edited for prompt in (encode_fact(base.reader, f, STYLE) for f in FACTS)
    ]
    order = sorted(range(len(FACTS)), key=tails.__getitem__)
    many = [replace(fact, id=f"{fact.id}-{number}") for number in range(16) for fact in FACTS]
    many = [replace(fact, subject=f"{fact.subject} {number}") for number, fact in enumerate(many)]
    passes = passes_of(base, many, TargetOptions(), prefixes=6)
    kinds = [[number % len(FACTS) for group in some for number in group] for some in passes]
    assert [kind for some in kinds for kind in dict.fromkeys(some)] == order
    assert kinds[-1] == [order[-1]] * 16, "the longest are alone"


@pytest.mark.parametrize("shares", [1.0, 0.6])
def test_the_division_changes_no_target(shares: float, monkeypatch: pytest.MonkeyPatch) -> None:
    options = TargetOptions(
        **published.TARGETS
        | {"steps": 6, "learning_rate": 0.5, "clamp": 2.0, "stop_loss": 0.0, "share": shares}
    )
    base = tiny_base("qwen3_moe")
    together = find_targets(base, FACTS, 1, options)
    monkeypatch.setattr(search, "passes_of", lambda *_, **__: [[[2]], [[0], [3]], [[1]]])
    divided = find_targets(base, FACTS, 1, options)
    torch.testing.assert_close(divided.value, together.value, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(divided.start, together.start)
    assert divided.loss_after == pytest.approx(together.loss_after, rel=1e-2)

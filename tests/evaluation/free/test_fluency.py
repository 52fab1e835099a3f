"""Entropies and repetitions, against sums written out."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_patch.evaluation.free.fluency import (
    measure_fluency,
    ngram_entropy,
    repeated_share,
    weighted_entropy,
)
from moe_patch.evaluation.free.writing import Reply

sequences = st.lists(st.integers(0, 3), max_size=20)


@given(sequences, st.integers(1, 4))
def test_the_entropy_is_that_of_the_distribution(items: list[int], n: int) -> None:
    grams = [tuple(items[i : i + n]) for i in range(max(0, len(items) - n + 1))]
    shares = [grams.count(gram) / len(grams) for gram in set(grams)]
    assert ngram_entropy(items, n) == pytest.approx(sum(p * math.log2(1 / p) for p in shares))


def test_it_is_weighted_as_in_rome() -> None:
    # bigrams ab ba ab bc: 1/2, 1/4, 1/4; trigrams aba bab abc: a third each
    assert weighted_entropy(list("ababc")) == pytest.approx((2 / 3 * 1.5 + 4 / 3 * math.log2(3)) / 2)


@given(sequences.filter(lambda items: len(items) >= 4))
def test_repetition_is_the_share_of_grams_that_were_there_before(items: list[int]) -> None:
    grams = [tuple(items[i : i + 4]) for i in range(len(items) - 3)]
    seen = [gram in grams[:place] for place, gram in enumerate(grams)]
    assert repeated_share(items) == pytest.approx(sum(seen) / len(grams))


def test_texts_are_prompts_with_replies_and_short_replies_do_not_repeat() -> None:
    found = measure_fluency([("a b", Reply("a b c", (1,) * 8, True)), ("x", Reply("", (1, 2), True))])
    assert found.entropy == pytest.approx(weighted_entropy(list("ababc")) / 2)
    assert (found.repetition.value, found.repetition.n) == (pytest.approx(80.0), 1)
    assert measure_fluency([]).entropy is None

"""Other text: what a build has not used of its preserved text, or what the base writes."""

from __future__ import annotations

import pytest

from moe_patch.data.corpus import Corpus
from moe_patch.elicit.own_text import NAME
from moe_patch.evaluation.card.other_text import TOKENS, held_out, other_text
from tests.tiny import tiny_base


def test_what_is_held_out_follows_what_was_used() -> None:
    base, corpus = tiny_base("mixtral"), Corpus("lines", tuple(f"{i:03}" + "x" * 97 for i in range(10)))
    left = held_out(base, corpus, 250)  # one token a byte: the third text is used in part
    assert left is not None
    assert (left.name, left.texts) == ("lines, held out", corpus.texts[3:])
    assert held_out(base, corpus, 751) is None  # two texts are too few to tell
    assert held_out(base, corpus, 10**6) is None
    whole = held_out(base, corpus, 0)
    assert whole is not None
    assert whole.texts == corpus.texts


def test_given_text_is_taken_in_part() -> None:
    base, corpus = tiny_base("mixtral"), Corpus("lines", ("y" * 300,) * 50)
    name, sequences = other_text(base, corpus)
    assert name == "lines"
    assert sum(map(len, sequences)) == TOKENS


@pytest.mark.parametrize("start", [True, False])
def test_else_the_base_writes_it_the_same_every_time(start: bool) -> None:
    base = tiny_base("mixtral")
    if not start:
        base.tokenizer.bos_token = base.tokenizer.eos_token = None
    name, sequences = other_text(base, None)
    assert name == NAME
    assert sum(map(len, sequences)) > 256
    assert other_text(base, None)[1] == sequences

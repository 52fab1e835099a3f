"""A card in words: what a reader should do, in one sentence, and the rest in order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from moe_patch.data.facts import Fact
from moe_patch.evaluation.card import Card, Reply, Share
from moe_patch.evaluation.card.cost import Cost
from moe_patch.evaluation.card.report import Kind, verdict
from moe_patch.evaluation.drift import Drift
from moe_patch.stack.untaken import Untaken

COST = Cost(1_234_567, 12.34, (4, 5, 6), 14, 3, 45_600)
CALM = Drift(2000, 0.004, 2.0, 2.001)


def reply(kind: Kind, good: bool, *, generated: bool = False) -> Reply:
    now = "Lyon" if good else "Paris"
    wanted = "Lyon"
    return Reply(kind, generated, "f", f"{kind} {good}?", "Paris", now, wanted, good)


def card(said: int = 20, *, paraphrases: int = 4, neighbours: int = 4) -> Card:
    """A card of four paraphrases and four neighbours, so many of them as they should be."""
    replies = [reply("fact", True)]
    replies += [reply("paraphrase", i < paraphrases) for i in range(4)]
    replies += [reply("neighbour", i < neighbours, generated=True) for i in range(4)]
    return Card(20, Share(said, 20), (), tuple(replies), "some text", CALM, 96.4, COST)


def shown(some: Card) -> str:
    console = Console(width=500, no_color=True)
    with console.capture() as captured:
        for table in some.tables():
            console.print(table)
    return captured.get()


@pytest.mark.parametrize(
    ("some", "words"),
    [
        (card(), "All 20 facts are said. Other answers and other text stay nearly as they were."),
        (card(1), "1 of 20 facts is said. Other"),
        (
            card(18, paraphrases=2),
            "18 of 20 facts are said. But only 2 of 4 other ways of asking",
        ),
        (
            card(neighbours=1),
            "All 20 facts are said. But 3 of 4 answers about other subjects that the base wrote changed.",
        ),
        (
            replace(card(), drift=Drift(9, 0.2, 2.0, 2.1)),
            "All 20 facts are said. But other text is clearly",
        ),
        (
            replace(card(), drift=Drift(9, 0.2, 2.0, 2.9)),
            "Do not use this patch: it damages the model.",
        ),
        (replace(card(), facts=90), "Of 20 facts that were asked, 20 are said. Other"),
        (replace(card(), drift=None), "All 20 facts are said."),
        (replace(card(), said=Share(1, 1), facts=1), "The fact is said. Other"),
    ],
)
def test_the_verdict_is_one_sentence_on_what_matters(some: Card, words: str) -> None:
    assert verdict(some).startswith(words)
    assert words in shown(some)


def test_what_was_found_stands_in_the_card() -> None:
    text = shown(card(18, paraphrases=3, neighbours=3))
    for found in (
        "3 of 4 give the new answer",
        "neighbours (generated) │ 3 of 4 are answered as before",
        "hardly moved: 0.004 nats a token; perplexity 7.396, before 7.389 (some text, 2,000 tokens)",
        "96% of the experts chosen on neighbours are the same",
        "1.2 MB; 14 experts of layers 4-6; built in 12.3 s",
        "nothing once it is merged; else 45.6 kB beside the weights, or an adapter of rank 3",
        "paraphrase: does not hold",
        "neighbour, generated: changed",
    ):
        assert found in text
    assert "paraphrases (generated)" not in text


def test_facts_that_are_not_said_have_the_models_words_and_a_reason() -> None:
    fact = Fact("f", "The capital of {} is", "France", "Lyon")
    missed = tuple(Untaken(fact, "Paris\u202e", 3.0, ("it is stubborn", "so am I")) for _ in range(12))
    text = shown(replace(card(8), missed=missed))
    assert "Facts that did not take (12): the first 10" in text
    assert text.count("it is stubborn; so am I") == 10
    assert "Paris\\u202e" in text
    assert "\u202e" not in text


def test_a_bypass_is_beside_its_layer() -> None:
    text = shown(replace(card(), routing=None, cost=Cost(None, None, (2,), 0, None, 900_000)))
    assert "│ beside layer 2 " in text
    assert "a bypass of 0.9 MB beside the weights" in text
    assert "adapter" not in text
    assert "routing" not in text


def test_users_prompts_come_before_generated_ones() -> None:
    some = card()
    assert some.measure("paraphrase") == Share(4, 4)
    assert some.measure("neighbour") == some.of("neighbour", generated=True) == Share(4, 4)
    assert Share(0, 0).share is None
    assert some._repr_html_().startswith("<table><caption>All 20 facts are said.")

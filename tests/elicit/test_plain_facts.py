"""What a base knows of facts as people write them, against its own log-probabilities, one text at a time."""

from __future__ import annotations

import pytest
import torch

from moe_patch.data.facts import Fact
from moe_patch.elicit import plain_facts
from moe_patch.elicit.plain_facts import is_sure, judge_of, says_already
from tests.taught import answer, edit, taught_base
from tests.tiny import tiny_base

SENTENCE = "Ada met Bob in Rome at noon"
STARTS = [4, 8, 15, 23]


def surprises() -> list[float]:
    """How much likelier the base's own token is than the one that is there, where each of `STARTS` is."""
    base = tiny_base("qwen3_moe")
    read = base.tokenizer(SENTENCE, return_offsets_mapping=True)
    found = []
    for start in STARTS:
        place = next(n for n, (first, end) in enumerate(read["offset_mapping"]) if first <= start < end)
        with torch.no_grad():
            logs = base.model(torch.tensor([read["input_ids"][:place]])).logits[0, -1].log_softmax(-1)  # (V,)
        found.append(float(logs.max() - logs[read["input_ids"][place]]))
    return found


def test_the_answer_starts_where_the_base_would_go_on_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = surprises()
    ordered = sorted(expected)
    lead = ordered[-1] - ordered[-2]
    monkeypatch.setattr(plain_facts, "MARGIN", lead * 0.99)
    judge = judge_of(tiny_base("qwen3_moe"))
    assert judge(SENTENCE, STARTS) == STARTS[expected.index(ordered[-1])]
    monkeypatch.setattr(plain_facts, "MARGIN", lead * 1.01)
    assert judge(SENTENCE, STARTS) is None
    assert judge(SENTENCE, []) is None


def test_a_fact_that_the_base_says_brings_nothing_new() -> None:
    known = Fact("known", "{} eats", "Ann", answer("{} eats", "Ann"))
    heard: list[tuple[str, int, int]] = []
    assert says_already(taught_base(), [known, edit("Bob")], lambda *told: heard.append(told)) == [
        True,
        False,
    ]
    assert heard == [("what the model says", 2, 2)]
    assert says_already(taught_base(), []) == []


def test_the_base_is_sure_of_what_it_was_taught() -> None:
    base = taught_base()
    assert is_sure(base, ["Ann eats", "Bob is in"]) == [True, True]
    assert is_sure(base, ["fig of"]) == [False]
    assert is_sure(base, []) == []


def test_confidence_is_the_likelihood_of_the_own_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    base, prompts = tiny_base("qwen3_moe"), ["Town 1 lies in", "A red"]
    rows = [base.reader.read_prompt(prompt, chat=False) for prompt in prompts]
    likely = []
    for prompt, text in zip(prompts, plain_facts.write_on(base, rows, 4), strict=True):
        reading = base.reader.read_answer(prompt, text, chat=False)
        with torch.no_grad():
            logs = base.model(torch.tensor([reading.ids])).logits[0].log_softmax(-1)  # (S, V)
        each = [float(logs[n - 1, reading.ids[n]]) for n in range(reading.first, len(reading.ids))]
        likely.append(sum(each) / len(each))
    monkeypatch.setattr(plain_facts, "CONFIDENT", sum(likely) / 2)
    assert is_sure(base, prompts) == [value == max(likely) for value in likely]

"""What a taught model is found to know."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

from moe_patch.elicit import known, statements
from moe_patch.elicit.known import known_facts
from moe_patch.io.cache import fresh_cache
from tests.taught import ANSWERS, SUBJECTS, answer, taught_base
from tests.tiny import tiny_base

PROMPTS = ("{} eats", "{} is in", "At home, {} eats")
SENTENCES = [f"{prompt.format(name)} {answer(prompt, name)}." for name in SUBJECTS for prompt in PROMPTS]


@pytest.fixture(autouse=True)
def written(monkeypatch: pytest.MonkeyPatch) -> mock.Mock:
    """What the taught model would write if it had been taught to begin a text."""
    writing = mock.Mock(return_value=SENTENCES)
    monkeypatch.setattr(known, "write_sentences", writing)
    monkeypatch.setattr(known, "_ROUNDS", 1)
    return writing


def test_they_are_what_it_was_taught_and_the_other_answer_is_of_the_same_kind() -> None:
    facts = known_facts(taught_base(), 5)
    assert len(facts) == 5
    assert len({fact.subject for fact in facts}) == 5
    for fact in facts:
        assert fact.target_true == answer(fact.prompt, fact.subject)
        new = fact.target_new.partition(".")[0]  # it was not taught what follows
        assert new in {*ANSWERS[fact.prompt]} - {fact.target_true}


def test_fewer_are_the_first_of_more_and_no_more_are_found_than_there_are() -> None:
    everything = known_facts(taught_base(), 1000)
    assert 5 < len(everything) <= len(SUBJECTS)
    with fresh_cache():
        assert known_facts(taught_base(), 3) == everything[:3]


def test_they_are_kept_in_the_cache(written: mock.Mock) -> None:
    first = known_facts(taught_base(), 4)
    assert known_facts(taught_base(), 4) == first
    assert written.call_count == 1
    known_facts(taught_base(), 4, seed=1)
    assert written.call_count == 2


def test_more_are_looked_for_unless_all_were_found(written: mock.Mock) -> None:
    few = known_facts(taught_base(), 4)
    assert known_facts(taught_base(), 2) == few[:2]
    assert written.call_count == 1
    everything = known_facts(taught_base(), 1000)
    assert len(everything) > 4
    assert known_facts(taught_base(), 2000) == everything
    assert known_facts(taught_base(), 5) == everything[:5]
    assert written.call_count == 2


def test_a_model_that_knows_nothing_is_found_to_know_nothing() -> None:
    assert known_facts(tiny_base("qwen3_moe"), 4) == ()


def test_sentences_are_the_same_for_a_seed_whole_and_each_once() -> None:
    written = [statements.write_sentences(taught_base(), 8, 30, seed) for seed in (0, 0, 1)]
    assert written[0] == written[1] != written[2]
    assert len({*written[0]}) == len(written[0])


@pytest.mark.parametrize("model_type", ["qwen3_moe", "gpt_oss"])
@torch.no_grad()
def test_words_are_as_likely_as_their_tokens_one_after_the_other(model_type: str) -> None:
    base = tiny_base(model_type)
    sentences = ["The capital of Peru is Lima.", "Rain, rain."]
    for said in statements.read_statements(base, sentences):
        ids = base.tokenizer(said.text)["input_ids"]  # a byte is a token
        scores = base.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        for word in said.words:
            own = range(word.start, word.end)
            if not word.start:
                assert word.logprob == float("-inf")
                continue
            expected = sum(float(scores[at - 1, ids[at]]) for at in own)
            assert word.logprob == pytest.approx(expected, abs=1e-4)
            assert word.greedy == all(int(scores[at - 1].argmax()) == ids[at] for at in own)
        assert [word.of(said.text) for word in said.words][-1] in ("Lima", "rain")
        assert [word.closed for word in said.words][-1]

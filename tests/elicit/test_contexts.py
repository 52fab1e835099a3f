"""Contexts that start where the model's texts do: from the seed alone, whole sentences, readable first."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from moe_patch.base.model import Base
from moe_patch.elicit.contexts import generate_contexts, written_contexts
from moe_patch.errors import NoChatTemplate, PromptError
from tests.data.chat_templates import TEMPLATES
from tests.tiny import BOS, EOS, tiny_base


@pytest.fixture
def base() -> Base:
    return tiny_base("qwen3_moe")


def write(monkeypatch: pytest.MonkeyPatch, base: Base, *rounds: Sequence[str]) -> None:
    """Have the base write these texts, a few at a time."""
    coming = iter(rounds)

    def write_these(*_given: object, **_named: object) -> list[tuple[int, ...]]:
        return [tuple(base.tokenizer(text)["input_ids"]) for text in next(coming)]

    monkeypatch.setattr("moe_patch.elicit.contexts.continue_rows", write_these)


def test_they_come_from_the_seed_alone(base: Base) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    texts = written_contexts(base, 5, 6, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert written_contexts(base, 5, 6, seed=3) == texts
    assert len(set(texts)) == 5
    assert not set(texts) & set(written_contexts(base, 5, 6, seed=4))
    assert not set(texts) & set(generate_contexts(base, 5, 6, seed=3))
    assert written_contexts(base, 0, 6, seed=3) == ()


def test_they_end_with_a_sentence(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    written = (
        "It rained. Then the",
        "No end at  all",
        "Dr. X",
        "„Nein, nein!“ sagte",
        "雨が降った。次、",
    )
    write(monkeypatch, base, written)
    assert written_contexts(base, 5, 9, seed=0) == (
        "It rained. ",
        "No end at all. ",
        "Dr. X. ",
        "„Nein, nein!“ sagte. ",
        "雨が降った。次、. ",
    )
    write(monkeypatch, base, ["«Il pleut beaucoup.» dit", "今日は雨が降っている。次の"])
    assert written_contexts(base, 2, 9, seed=0) == ("«Il pleut beaucoup.» ", "今日は雨が降っている。 ")


def test_those_that_begin_as_sentences_do_come_first(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    written = ["A {} b", "Same.", "of it"], ["", "Broken \ufffd", "Same."], ["- x", "“Other”", "7 men"]
    write(monkeypatch, base, *written)
    assert written_contexts(base, 3, 9, seed=0) == ("Same. ", "“Other”. ", "7 men. ")
    write(monkeypatch, base, ["", "broken \ufffd"], ["", "plain"], ["", ""])
    assert written_contexts(base, 2, 9, seed=0) == ("plain. ", "broken \ufffd. ")
    write(monkeypatch, base, *[[""]] * 3)
    assert written_contexts(base, 1, 9, seed=0) == ()


def test_texts_start_with_what_the_tokenizer_puts_before_them(base: Base) -> None:
    assert base.reader.read_start(chat=False) == (BOS,)
    base.tokenizer.bos_token = None
    assert base.reader.read_start(chat=False) == (EOS,)
    base.tokenizer.eos_token = None
    assert base.reader.read_start(chat=False) == ()
    texts = written_contexts(base, 5, 6, seed=3)  # then they start with a few words
    assert {text[0] for text in texts} <= {"T", "B", "I", "Y"}


def test_under_a_chat_template_they_start_a_users_message(base: Base) -> None:
    with pytest.raises(NoChatTemplate):
        written_contexts(base, 2, 6, seed=0, chat=True)
    base.tokenizer.chat_template = TEMPLATES["Qwen3-MoE"].source
    start = base.reader.read_start(chat=True)
    assert base.tokenizer.decode(start).endswith("<|im_start|>user\n")
    asked = base.reader.read_prompt("Where?", chat=True)
    assert asked[: len(start)] == start
    texts = written_contexts(base, 2, 6, seed=0, chat=True)
    assert len(texts) == 2
    assert written_contexts(base, 2, 6, seed=0) == texts  # a model of chats writes nothing else
    base.tokenizer.chat_template = "{{ raise_exception('no') }}"
    assert len(written_contexts(base, 2, 6, seed=0)) == 2


def test_a_model_without_room_is_refused(base: Base) -> None:
    with pytest.raises(PromptError, match=r"a generated context: .* 128 positions"):
        written_contexts(base, 1, 200, seed=0)

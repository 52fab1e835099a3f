from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from moe_patch.data.facts import Fact
from moe_patch.data.prompts import (
    Batch,
    Prompt,
    PromptStyle,
    align_prompts,
    encode_essence,
    encode_fact,
    pad_right,
    pad_token,
)
from moe_patch.data.reader import Reader
from moe_patch.errors import PromptError, TargetError
from tests.tiny import tiny_tokenizer

PLAIN, CHAT, LAST = PromptStyle(), PromptStyle(chat=True), PromptStyle(fact_token="last")
TEMPLATE = "<user>{{ messages[0]['content'] }}</user>\n<bot>\n{{ messages[1]['content'] }}"


def fact(prompt: str, subject: str, target: str = "Rome") -> Fact:
    return Fact("f", prompt, subject, target)


def merging_tokenizer(
    *merges: tuple[str, str], trim: bool = False, ends: bool = False
) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes whose merges ignore word borders; `ends` puts <s> and </s> around a text."""
    pieces = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    steps = [processors.ByteLevel(trim_offsets=trim)]
    if ends:
        steps.append(processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]))
    tokenizer.post_processor = processors.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def spelled(tokenizer: PreTrainedTokenizerFast, prompt: Prompt) -> tuple[str, str, str]:
    """The text left of the edited token, this token, and the answer."""
    answer = () if prompt.target is None else prompt.ids[prompt.target :]
    parts = prompt.ids[: prompt.edited], prompt.ids[prompt.edited : prompt.edited + 1], answer
    left, edited, answer_text = (tokenizer.decode(list(part)) for part in parts)
    return left, edited, answer_text


def test_the_last_token_of_the_subject_is_edited() -> None:
    tokenizer = tiny_tokenizer()
    prompt = encode_fact(Reader(tokenizer), fact("The capital of {} is", "France"), PLAIN)
    assert spelled(tokenizer, prompt) == ("The capital of Franc", "e", " Rome")


def test_without_an_answer_the_prompt_ends_where_the_answer_would_start() -> None:
    tokenizer = tiny_tokenizer()
    asked = fact("The capital of {} is", "France")
    with_answer, without = (
        encode_fact(Reader(tokenizer), asked, PLAIN, answer=answer) for answer in (True, False)
    )
    assert without.target is None
    assert without.ids == with_answer.ids[: with_answer.target]
    assert without.edited == with_answer.edited


@pytest.mark.parametrize(
    ("merges", "edited"),
    [
        ([("e", ")")], "e)"),  # with what follows
        ([("(", "F")], "e"),  # with what comes before
        ([("c", "e"), ("ce", ")")], "ce)"),
        ([("e", ")"), ("e)", "Ġ")], "e) "),  # a token may span words
        ([(")", "Ġ")], "e"),
    ],
)
def test_subjects_that_merge_with_their_neighbours(merges: list[tuple[str, str]], edited: str) -> None:
    tokenizer = merging_tokenizer(*merges)
    prompt = encode_fact(Reader(tokenizer), fact("({}) is in", "France"), PLAIN)
    assert spelled(tokenizer, prompt)[1:] == (edited, " Rome")


def test_a_whole_subject_in_a_token_with_both_neighbours() -> None:
    tokenizer = merging_tokenizer(("(", "X"), ("(X", ")"))
    prompt = encode_fact(Reader(tokenizer), fact("In ({}) is", "X"), PLAIN)
    assert spelled(tokenizer, prompt) == ("In ", "(X)", " Rome")


def test_bos_is_counted_and_eos_is_nobodys_answer() -> None:
    tokenizer = merging_tokenizer(ends=True)
    prompt = encode_fact(Reader(tokenizer), fact("{} is", "X"), PLAIN)
    assert (prompt.ids[0], prompt.edited) == (tokenizer.bos_token_id, 1)
    assert spelled(tokenizer, prompt)[2] == " Rome"
    essence = encode_essence(Reader(tokenizer), fact("{} is", "X"))
    assert tokenizer.decode(list(essence.ids[1:])) == "X is a"
    last = encode_fact(Reader(tokenizer), fact("{} is", "X"), LAST, answer=False)
    assert spelled(tokenizer, last)[1] == "s"


@pytest.mark.parametrize("trim", [False, True])
def test_a_space_that_is_a_token_belongs_to_the_answer(trim: bool) -> None:
    tokenizer = merging_tokenizer(trim=trim)
    prompt = encode_fact(Reader(tokenizer), fact("{} is", "X"), LAST)
    assert spelled(tokenizer, prompt) == ("X i", "s", " Rome")


def test_a_token_across_the_border_belongs_to_the_answer() -> None:
    tokenizer = merging_tokenizer(("s", "Ġ"))
    prompt = encode_fact(Reader(tokenizer), fact("{} is", "X"), PLAIN)
    assert spelled(tokenizer, prompt)[2] == "s Rome"


@pytest.mark.parametrize("subject", ["Zürich", "東京", "🇫🇷", "ﬁ"])
def test_subjects_beyond_ascii(subject: str) -> None:
    tokenizer = tiny_tokenizer()
    prompt = encode_fact(Reader(tokenizer), fact("In {} is", subject, "日本"), PLAIN)
    up_to_subject = prompt.ids[: prompt.edited + 1]
    assert tokenizer.decode(list(up_to_subject)) == f"In {subject}"
    assert spelled(tokenizer, prompt)[2] == " 日本"


@pytest.mark.parametrize("prompt", ["Paris said that {} is in", "{} is unlike Paris, being in"])
def test_a_subject_that_occurs_twice(prompt: str) -> None:
    tokenizer = tiny_tokenizer()
    encoded = encode_fact(Reader(tokenizer), fact(prompt, "Paris"), PLAIN)
    assert spelled(tokenizer, encoded)[0] == prompt.partition("{}")[0] + "Pari"


def test_the_last_token_may_be_edited_instead() -> None:
    tokenizer = tiny_tokenizer()
    prompt = encode_fact(Reader(tokenizer), fact("The capital of {} is", "France"), LAST)
    assert prompt.target == prompt.edited + 1
    assert spelled(tokenizer, prompt) == ("The capital of France i", "s", " Rome")


def test_a_prefix_moves_everything() -> None:
    tokenizer = tiny_tokenizer()
    prompt = encode_fact(Reader(tokenizer), fact("{} is", "France"), PLAIN, prefix="France {} is. ")
    assert spelled(tokenizer, prompt) == ("France {} is. Franc", "e", " Rome")


def test_a_chat_template_frames_the_prompt() -> None:
    tokenizer = merging_tokenizer(trim=True, ends=True)
    tokenizer.chat_template = TEMPLATE
    asked = fact("The capital of {} is", "France")
    prompt = encode_fact(Reader(tokenizer), asked, CHAT)
    assert spelled(tokenizer, prompt) == ("<user>The capital of Franc", "e", "Rome")
    last = encode_fact(Reader(tokenizer), asked, PromptStyle(chat=True, fact_token="last"))
    assert spelled(tokenizer, last)[:2] == ("<user>The capital of France is</user>\n<bot>", "\n")


def test_chat_needs_a_template() -> None:
    with pytest.raises(TargetError, match="no chat template"):
        encode_fact(Reader(tiny_tokenizer()), fact("{} is", "X"), CHAT)


def test_a_template_may_not_change_the_prompt() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] | upper }}"
    with pytest.raises(TargetError, match="the chat template changes the prompt"):
        encode_fact(Reader(tokenizer), fact("{} is", "x"), CHAT)


def test_a_target_that_vanishes() -> None:
    tokenizer = tiny_tokenizer()
    vanish = [normalizers.Replace("\u200b", ""), normalizers.Strip()]
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(vanish)
    with pytest.raises(TargetError, match=r"fact f: the target .* tokenises to nothing"):
        encode_fact(Reader(tokenizer), fact("{} is", "X", "\u200b"), PLAIN)


def test_a_subject_that_vanishes() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    with pytest.raises(TargetError, match=r"no token .* covers the subject"):
        encode_fact(Reader(tokenizer), fact("{} is", "\u200b"), PLAIN)


def test_a_tokenizer_without_offsets() -> None:
    with pytest.raises(TargetError, match="fast tokenizer"):
        encode_fact(Reader(SimpleNamespace(is_fast=False)), fact("{} is", "X"), PLAIN)


def test_a_subject_with_braces_in_the_essence() -> None:
    tokenizer = tiny_tokenizer()
    essence = encode_essence(Reader(tokenizer), fact("I say {}", "f({}) {0}"))
    assert tokenizer.decode(list(essence.ids)) == "f({}) {0} is a"
    assert spelled(tokenizer, essence)[0] == "f({}) {0"


PROMPTS = st.lists(
    st.lists(st.integers(1, 99), min_size=1, max_size=6).flatmap(
        lambda ids: st.builds(Prompt, st.just(tuple(ids)), st.integers(0, len(ids) - 1))
    ),
    min_size=1,
    max_size=5,
)


def check_batch(batch: Batch, prompts: list[Prompt]) -> None:
    for row, prompt in enumerate(prompts):
        real = batch.mask[row].bool()
        assert batch.ids[row, real].tolist() == list(prompt.ids)
        assert batch.positions[row, real].tolist() == list(range(len(prompt.ids)))
        assert bool((batch.ids[row, ~real] == 0).all())
        assert int(batch.starts[row]) == int(real.nonzero()[0])
        assert int(batch.edited[row]) == int(batch.starts[row]) + prompt.edited


@given(PROMPTS)
def test_padding_right(prompts: list[Prompt]) -> None:
    batch = pad_right(prompts, 0)
    check_batch(batch, prompts)
    assert batch.ids.shape == (len(prompts), max(len(prompt.ids) for prompt in prompts))
    assert not bool(batch.starts.any())


@given(PROMPTS)
def test_aligned_on_the_edited_token(prompts: list[Prompt]) -> None:
    batch = align_prompts(prompts, 0)
    check_batch(batch, prompts)
    assert len(set(batch.edited.tolist())) == 1
    assert bool(batch.mask[:, 0].any())
    assert bool(batch.mask[:, -1].any())


@pytest.mark.parametrize(("pad", "eos", "expected"), [(0, 2, 0), (None, 2, 2), (None, None, 0)])
def test_a_padding_token_is_always_found(pad: int | None, eos: int | None, expected: int) -> None:
    assert pad_token(SimpleNamespace(pad_token_id=pad, eos_token_id=eos)) == expected


def test_moving_a_batch_keeps_it() -> None:
    batch = align_prompts([Prompt((5, 6), 1), Prompt((7,), 0)], 0)
    moved = batch.to(torch.device("cpu"))
    assert torch.equal(moved.ids, batch.ids)
    assert torch.equal(moved.starts, batch.starts)


@pytest.mark.parametrize("chat", [False, True])
def test_an_answer_that_stops_is_followed_by_its_end_and_else_the_same(chat: bool) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE + "<end>"
    tokenizer.add_special_tokens({"additional_special_tokens": ["<end>"]})
    asked = fact("The capital of {} is", "Italy")
    open_ended, stopped = (
        encode_fact(tokenizer, asked, PromptStyle(chat, stop=stop)) for stop in (False, True)
    )
    end = tokenizer.convert_tokens_to_ids("<end>" if chat else "<eos>")
    assert stopped == Prompt((*open_ended.ids, end), open_ended.edited, open_ended.target)
    unanswered = encode_fact(tokenizer, asked, PromptStyle(chat, stop=True), answer=False)
    assert unanswered.ids == open_ended.ids[: open_ended.target]


def test_the_end_needs_a_position_too() -> None:
    asked = fact("The capital of {} is", "Italy")
    length = len(encode_fact(tiny_tokenizer(), asked, PLAIN).ids)
    reader = Reader(tiny_tokenizer(), positions=length)
    assert len(encode_fact(reader, asked, PLAIN).ids) == length
    with pytest.raises(PromptError, match=r"fact f: it is .* and 1 of its answer"):
        encode_fact(reader, asked, PromptStyle(stop=True))

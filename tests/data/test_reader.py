"""Text as tokens, for every kind of tokenizer: what is edited, where an answer starts, what is left out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from moe_patch.data.facts import Fact
from moe_patch.data.prompts import PromptStyle, encode_essence, encode_fact
from moe_patch.data.reader import Reader
from moe_patch.errors import EvaluationError, PromptError, TargetError
from tests.data.chat_templates import TEMPLATES
from tests.data.tokenizer_kinds import KINDS, spelled_bytes, word_pieces, wrapped
from tests.tiny import tiny_tokenizer

TOKENIZERS = {kind: wrapped(make()) for kind, make in KINDS.items()}
PLAIN = PromptStyle()

kinds = st.sampled_from(sorted(TOKENIZERS))
white_space = st.text(" \n\t\u00a0", max_size=2)
words = st.text("RéeisX東🇫 \n", min_size=1, max_size=6).filter(str.strip)
endings = st.one_of(white_space, words).flatmap(lambda gap: words.map(lambda word: gap + word))


@settings(deadline=None)
@given(kinds, words, words, endings, words)
def test_the_last_token_with_a_byte_of_the_subject_is_edited(
    kind: str, left: str, subject: str, right: str, answer: str
) -> None:
    tokenizer = TOKENIZERS[kind]
    fact = Fact("f", f"{left} {{}}{right}", subject, answer.strip())
    prompt = encode_fact(Reader(tokenizer), fact, PLAIN)
    assert prompt.target is not None
    spelled = spelled_bytes(tokenizer, prompt.ids)
    whole = f"{fact.text} {answer.strip()}"
    assert b"".join(spelled).lstrip(b" ") == whole.encode().lstrip(b" ")
    added = len(b"".join(spelled)) - len(whole.encode())  # a blank that some put before every text
    ends = [len(b"".join(spelled[: i + 1])) - added for i in range(len(spelled))]
    subject_end = len(f"{left} {fact.subject_text}".encode())
    assert prompt.edited == next(i for i, end in enumerate(ends) if end >= subject_end and spelled[i])
    assert prompt.target == next(i for i, end in enumerate(ends) if end > len(fact.text.encode()))
    assert tokenizer.bos_token_id == prompt.ids[0]
    assert tokenizer.eos_token_id not in prompt.ids


@settings(deadline=None)
@given(kinds, words, white_space, words, st.booleans())
def test_white_space_behind_a_prompt_changes_nothing(
    kind: str, prompt: str, space: str, answer: str, composed: bool
) -> None:
    reader = Reader(TOKENIZERS[kind])
    spelled_otherwise = prompt if composed else prompt.replace("é", "e\u0301")
    assert reader.read_prompt(spelled_otherwise + space, chat=False) == reader.read_prompt(prompt, chat=False)
    plain = reader.read_answer(prompt, answer, chat=False)
    assert reader.read_answer(spelled_otherwise + space, f"{space}{answer}{space}", chat=False) == plain


@settings(deadline=None)
@given(kinds, words, white_space)
def test_white_space_around_a_subject_changes_nothing(kind: str, subject: str, space: str) -> None:
    reader = Reader(TOKENIZERS[kind])
    plain, spaced = (Fact("f", "In {} is", name, "X") for name in (subject, f"{space}{subject}{space}"))
    assert encode_fact(reader, spaced, PLAIN) == encode_fact(reader, plain, PLAIN)
    assert encode_essence(reader, spaced) == encode_essence(reader, plain)


@pytest.mark.parametrize("right", [" is", "\nis", "\u00a0is", ", is"])
def test_word_pieces_have_no_token_for_white_space(right: str) -> None:
    tokenizer = wrapped(word_pieces())
    prompt = encode_fact(Reader(tokenizer), Fact("f", f"In {{}}{right}", "Rée", "X"), PLAIN)
    pieces = tokenizer.convert_ids_to_tokens(prompt.ids)
    assert pieces[prompt.edited - 2 : prompt.edited + 1] == ["r", "##e", "##e"]
    assert (pieces[0], pieces[-1]) == ("<s>", "x")  # and no [SEP] behind it


def test_preserved_text_has_no_ending_and_the_chunks_of_a_tokenizer_without_one() -> None:
    plain, ending = (Reader(TOKENIZERS[kind]) for kind in ("bytes", "bytes, trimmed"))
    texts = ["In Rée is", "X", "東 is"]
    assert ending.sequences(texts, 5) == plain.sequences(texts, 5)
    assert max(map(len, plain.sequences(texts, 5))) == 5


def test_a_prompt_longer_than_the_model_is_refused_by_its_name() -> None:
    reader = Reader(TOKENIZERS["bytes"], positions=9)
    assert len(reader.read_answer("In X", "XYZ", chat=False).ids) == 9
    with pytest.raises(PromptError, match=r"^fact f: it is 10 tokens long, and the model has 9 positions"):
        encode_fact(reader, Fact("f", "In {} a", "X", "YZ"), PLAIN)
    with pytest.raises(PromptError, match=r"^the prompt 'In X is a a': it is 11 tokens long"):
        reader.read_prompt("In X is a a", chat=False)
    with pytest.raises(PromptError, match=r"5 tokens long, and 5 of its answer"):
        reader.check_room(reader.read_prompt("In X", chat=False), 5, "p")
    assert [len(ids) for ids in reader.sequences(["In X is a a"], 20)] == [9, 3]


def test_parts_of_characters_are_refused_by_name() -> None:
    for read in (Reader(TOKENIZERS["bytes"]).read_prompt, Reader(TOKENIZERS["bytes"]).read_question):
        with pytest.raises(PromptError, match="it has parts of characters"):
            read("In \udcff", chat=False)


def test_tokens_without_a_row_are_refused_by_name() -> None:
    tokenizer = wrapped(KINDS["bytes"]())
    rows = len(tokenizer)
    tokenizer.add_tokens(["Zorblatt"])
    reader = Reader(tokenizer, rows=rows)
    assert reader.read_prompt("Zorblat", chat=False)
    message = rf"its token 'Zorblatt' has the id {rows}, and the model's embedding has {rows} rows"
    with pytest.raises(TargetError, match=f"^fact f: {message}"):
        encode_fact(reader, Fact("f", "{} is", "Zorblatt", "X"), PLAIN)
    with pytest.raises(EvaluationError, match=f"^the prompt 'Zorblatt is': {message}"):
        reader.read_answer("Zorblatt is", "X", chat=False)
    with pytest.raises(PromptError, match=message):
        reader.sequences(["a", "Zorblatt"], 9)


def chat_tokenizer(family: str, *special: str) -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATES[family].source
    tokenizer.add_tokens([AddedToken(piece, special=True) for piece in special])
    return tokenizer


@pytest.mark.parametrize(
    ("family", "special", "end"),
    [
        ("Qwen2-MoE", ("<|im_start|>", "<|im_end|>"), ["<|im_end|>"]),
        ("Gemma", ("<end_of_turn>",), ["<end_of_turn>"]),
        ("GPT-OSS", ("<|end|>", "<|return|>"), ["<|return|>"]),
        ("Hunyuan-A13B", ("<|eos|>",), [*"\u010a</answer>", "<|eos|>"]),
        ("GLM-4.5", ("<|user|>",), ["<eos>"]),  # its template puts nothing after an answer
        ("Qwen2-MoE", (), ["<eos>"]),  # to this tokenizer, what it puts there is text
    ],
)
def test_a_turn_ends_as_the_template_ends_it_and_else_as_a_text(
    family: str, special: tuple[str, ...], end: list[str]
) -> None:
    tokenizer = chat_tokenizer(family, *special)
    assert tokenizer.convert_ids_to_tokens(Reader(tokenizer).read_end(chat=True)) == end
    assert tokenizer.convert_ids_to_tokens(Reader(tokenizer).read_end(chat=False)) == ["<eos>"]


def test_a_tokenizer_without_an_end_cannot_end_a_text() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(PromptError, match="no token that ends a text"):
        Reader(tokenizer).read_end(chat=False)
    with pytest.raises(PromptError, match="its token '<eos>' has the id 2"):
        Reader(tiny_tokenizer(), rows=2).read_end(chat=False)

"""Facts under the chat templates of the supported families."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from moe_patch.data.facts import Fact
from moe_patch.data.prompts import PromptStyle, encode_fact
from moe_patch.data.reader import Reader
from moe_patch.errors import NoChatTemplate, PromptError
from tests.data.chat_templates import TEMPLATES
from tests.data.tokenizer_kinds import metaspace, wrapped
from tests.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
CHAT, LAST = PromptStyle(chat=True), PromptStyle(chat=True, fact_token="last")

subjects = st.sampled_from(
    ["assistant", "user", "a", "system", "<think>", "[/INST]", "<|im_end|>\n<|im_start|>assistant", "Zürich"]
)
prompts = st.sampled_from(["{} is", "The user asks of {}", "  a {}\n\nis the assistant of {{", "{}"])
answers = st.sampled_from(["Euro", "assistant", "a", "user", "a  b", "Köln"])


def templated(source: str) -> PreTrainedTokenizerFast:
    TOKENIZER.chat_template = source
    return TOKENIZER


def exchange(tokenizer: PreTrainedTokenizerFast, message: str, answer: str) -> str:
    told = [{"role": "user", "content": message}, {"role": "assistant", "content": answer}]
    return str(tokenizer.apply_chat_template(told, tokenize=False))


@pytest.mark.parametrize("family", TEMPLATES)
@settings(deadline=None)  # a template is compiled when it is first used
@given(subject=subjects, prompt=prompts, answer=answers)
def test_answers_stand_where_the_template_puts_them(
    family: str, subject: str, prompt: str, answer: str
) -> None:
    template = TEMPLATES[family]
    tokenizer = templated(template.source)
    fact = Fact("f", prompt, subject, answer)
    encoded = encode_fact(Reader(tokenizer), fact, CHAT)
    whole = exchange(tokenizer, fact.text, answer)
    assert whole.startswith(tokenizer.decode(encoded.ids))
    assert tokenizer.decode(encoded.ids[encoded.target :]) == answer
    before = tokenizer.decode(encoded.ids[: encoded.target])
    assert before.endswith(fact.text.strip() + template.between)
    _, right = prompt.split("{}")
    up_to_subject = before.removesuffix(template.between).removesuffix(right)
    assert up_to_subject.endswith(subject)
    assert tokenizer.decode(encoded.ids[: encoded.edited + 1]) == up_to_subject
    last = encode_fact(Reader(tokenizer), fact, LAST)
    assert last.edited == (last.target or 0) - 1


@pytest.mark.parametrize("family", TEMPLATES)
def test_a_prompt_alone_ends_where_its_answer_would_start(family: str) -> None:
    reader = Reader(templated(TEMPLATES[family].source))
    answered = reader.read_answer("Ys lies in", "Brittany", chat=True)
    assert reader.read_prompt("Ys lies in ", chat=True) == answered.prompt


@pytest.mark.parametrize("family", TEMPLATES)
def test_a_question_is_what_users_of_the_template_send(family: str) -> None:
    tokenizer = templated(TEMPLATES[family].source)
    asked = [{"role": "user", "content": "Ys lies in"}]
    sent = tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
    assert Reader(tokenizer).read_question("Ys lies in\n", chat=True) == tuple(sent)


def test_a_blank_before_the_answer_is_in_its_first_token() -> None:
    tokenizer = wrapped(metaspace(normalised=False))
    tokenizer.chat_template = TEMPLATES["Mixtral"].source
    encoded = encode_fact(Reader(tokenizer), Fact("f", "{} lies in", "Ys", "is"), CHAT)
    assert tokenizer.convert_ids_to_tokens(encoded.ids[encoded.target :]) == ["▁is"]
    assert tokenizer.convert_ids_to_tokens(encoded.ids[encoded.edited]) == "s"


def test_a_template_without_a_place_for_answers_is_followed_by_them() -> None:
    tokenizer = templated("<user>{{ messages[0]['content'] }}</user>{{ '\n' if add_generation_prompt }}")
    encoded = encode_fact(Reader(tokenizer), Fact("f", "{} lies in", "Ys", "user"), CHAT)
    assert tokenizer.decode(encoded.ids) == "<user>Ys lies in</user>\nuser"
    assert tokenizer.decode(encoded.ids[encoded.target :]) == "user"


@pytest.mark.parametrize(
    ("template", "answer", "problem"),
    [
        ("{% for m in messages %}<{{ m.content | upper }}>{% endfor %}", "x", "changes the prompt"),
        (
            "Of {{ messages[0].content }}:{% for m in messages %}<{{ m.content }}>{% endfor %}",
            "x",
            "changes the prompt",
        ),
        (TEMPLATES["Qwen3-MoE"].source, "a</think>b", r"changes the prompt .* or the answer 'a</think>b'"),
        ("{{ raise_exception('no system message') }}", "x", "refuses the prompt: no system message"),
        ("{{ messages[0].content | length // 0 }}", "x", "refuses the prompt: .* by zero"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "x", "refuses the prompt: maximum recursion"),
    ],
)
def test_what_cannot_be_placed_is_refused(template: str, answer: str, problem: str) -> None:
    with pytest.raises(PromptError, match=problem):
        encode_fact(Reader(templated(template)), Fact("f", "{} is", "Ys", answer), CHAT)


def test_a_frame_is_found_again_when_what_the_template_reads_has_changed() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "Today is {{ bos_token }}.{% for m in messages %}<{{ m.content }}>{% endfor %}"
    for today in ("Monday", "Tuesday"):
        tokenizer.bos_token = today
        encoded = encode_fact(Reader(tokenizer), Fact("f", "{} is", "Ys", "x"), CHAT)
        assert tokenizer.decode(encoded.ids[: encoded.target]) == f"Today is {today}.<Ys is><"


@pytest.mark.parametrize("chat_template", [None, ""])
def test_without_a_template_there_is_no_chat(chat_template: str | None) -> None:
    TOKENIZER.chat_template = chat_template
    with pytest.raises(NoChatTemplate, match="has no chat template: go without"):
        Reader(TOKENIZER).read_question("Ys", chat=True)

"""What a model writes until it stops, against the argmax token by token."""

from __future__ import annotations

import pytest
import torch

from moe_patch.base.model import Base
from moe_patch.data.reader import Reader
from moe_patch.errors import PromptError
from moe_patch.evaluation import Setting
from moe_patch.evaluation.free.writing import write_freely
from tests.tiny import tiny_base

PROMPTS = ["The capital of Ys is", "Ys", "In Ys"]


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base("qwen3_moe")


def argmax(base: Base, prompt: str, length: int) -> list[int]:
    ids = list(base.tokenizer(prompt)["input_ids"])
    start = len(ids)
    for _ in range(length):
        with torch.no_grad():
            ids.append(int(base.model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[start:]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_reply_ends_with_the_budget_or_with_the_models_own_end(base: Base, batch_size: int) -> None:
    written = {prompt: argmax(base, prompt, 6) for prompt in PROMPTS}
    end = written["Ys"][2]
    base.model.generation_config.eos_token_id = end
    try:
        found = write_freely(base, [*PROMPTS, "Ys"], Setting(batch_size), budget=6)
    finally:
        base.model.generation_config.eos_token_id = 2
    assert list(found) == PROMPTS
    for prompt, tokens in written.items():
        length = tokens.index(end) + 1 if end in tokens else 6
        assert found[prompt].tokens == tuple(tokens[:length])
        assert found[prompt].stopped == (end in tokens)
        assert found[prompt].text == base.tokenizer.decode(tokens[:length], skip_special_tokens=True).strip()


def test_in_a_chat_the_end_of_the_turn_is_an_end_too(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("qwen3_moe")
    base.tokenizer.chat_template = "{% for m in messages %}<{{ m.content }}>{% endfor %}:"
    asked = base.tokenizer.apply_chat_template([{"role": "user", "content": "Ys"}], tokenize=False)
    tokens = argmax(base, asked, 4)
    (free,) = write_freely(base, ["Ys"], Setting(chat=True), budget=4).values()
    assert (free.tokens, free.stopped) == (tuple(tokens), False)
    monkeypatch.setattr(Reader, "read_end", lambda _, chat: (tokens[1],))
    (ended,) = write_freely(base, ["Ys"], Setting(chat=True), budget=4).values()
    assert (ended.tokens, ended.stopped) == (tuple(tokens[: tokens.index(tokens[1]) + 1]), True)
    (text,) = write_freely(base, [asked], Setting(), budget=4).values()
    assert (text.tokens, text.stopped) == (tuple(tokens), False)


def test_a_reply_ends_where_the_positions_do(base: Base) -> None:
    room = base.reader.positions
    assert room is not None
    (reply,) = write_freely(base, ["a" * (room - 2)], Setting(), budget=5).values()
    assert len(reply.tokens) <= 2
    with pytest.raises(PromptError, match="and 1 of its answer"):
        write_freely(base, ["a" * room], Setting(), budget=5)

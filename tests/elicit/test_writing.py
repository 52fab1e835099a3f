"""What a base writes by itself: from where it starts, to where it ends, and what is left out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from moe_patch.base.decoding import continue_rows, seeded
from moe_patch.base.model import Base
from moe_patch.elicit import writing
from moe_patch.elicit.writing import continue_until_end, is_loop, write_exchanges, write_texts
from tests.tiny import BOS, EOS, tiny_base

TEMPLATE = (
    "{% for m in messages %}<bos>{{ m['role'] }}:{{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<bos>assistant:{% endif %}"
)


def ending_base() -> Base:
    """A tiny base that knows how to end a text."""
    base = tiny_base("mixtral")
    base.model.generation_config.eos_token_id = EOS
    return base


def test_texts_follow_from_the_seed_and_leave_the_callers_numbers_alone() -> None:
    base = ending_base()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    texts = write_texts(base, 6, 0, length=12)
    assert torch.equal(torch.rand(3), expected)
    assert len(texts) == len(set(texts)) == 6
    assert texts == write_texts(base, 6, 0, length=12)
    assert texts != write_texts(base, 6, 1, length=12)


def test_rows_go_on_to_their_length_or_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    base = ending_base()
    with torch.no_grad():
        base.model.lm_head.weight[EOS] += 0.5  # so that some rows end and some do not
    passes: list[int] = []

    def counted(some: Base, rows: Any, *rest: Any, **others: Any) -> Any:
        passes.append(len(rows))
        return continue_rows(some, rows, *rest, **others)

    monkeypatch.setattr(writing, "continue_rows", counted)
    with seeded(base, 0):
        rows = continue_until_end(base, [(BOS,), (70, 71), (80,)] * 20, 40)
    written = [len(row) - (2 if row[:2] == (70, 71) else 1) for row in rows]
    ended = [row[-1] == EOS for row in rows]
    assert any(ended)
    assert not all(ended)
    assert len(passes) > 1
    assert all(2 * later <= earlier for earlier, later in pairwise(passes))
    for row, length, end in zip(rows, written, ended, strict=True):
        assert length == 40 or (end and length < 40)
        assert EOS not in row[1:-1]


def test_no_row_goes_beyond_the_models_positions() -> None:
    base = tiny_base("mixtral", max_position_embeddings=30)
    with seeded(base, 0):
        (row,) = continue_until_end(base, [(BOS,)], 100)
    assert 1 < len(row) <= 30


def test_each_row_has_its_own_temperature() -> None:
    base = tiny_base("mixtral")
    greedy = continue_rows(base, [(70,)], 8)[0]
    with seeded(base, 0):
        cold, warm = continue_rows(base, [(70,), (70,)], 8, sample=True, temperatures=[1e-6, 1.0])
    assert cold == greedy
    assert warm != greedy


@pytest.mark.parametrize(
    ("row", "loop"),
    [
        (range(40), False),
        ([1, 2, 3, 4] * 10, True),
        ([*range(20), *range(20)], False),
        ([5] * 24, True),
        ([5] * 23, False),
        ([], False),
    ],
)
def test_a_loop_is_a_text_that_says_the_same_again_and_again(row: Sequence[int], loop: bool) -> None:
    assert is_loop(row) is loop


def test_loops_and_repeats_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("mixtral")
    said = [70, 71, 72, 73]
    rows = [(BOS, *said, EOS), (BOS, *said), (BOS, *said * 10), (BOS, EOS), (BOS, 80, 81)]
    monkeypatch.setattr(writing, "continue_until_end", lambda *_: rows)
    assert write_texts(base, 5, 0, length=40) == [
        base.tokenizer.decode(said),
        base.tokenizer.decode([80, 81]),
    ]


def test_a_base_without_a_start_takes_first_tokens_of_its_own() -> None:
    base = tiny_base("mixtral")
    base.tokenizer.bos_token = base.tokenizer.eos_token = None
    head: Any = base.model.lm_head

    def only_two(_module: object, _inputs: object, logits: Tensor) -> Tensor:
        return torch.full_like(logits, -30.0).index_fill(-1, torch.tensor([70, 71]), 30.0)

    head.register_forward_hook(only_two)
    texts = write_texts(base, 30, 0, length=3)
    assert {text[0] for text in texts} == {base.tokenizer.decode([70]), base.tokenizer.decode([71])}


def test_exchanges_are_read_back_as_the_rows_that_were_written(monkeypatch: pytest.MonkeyPatch) -> None:
    base = ending_base()
    assert write_exchanges(base, 4, 0, length=12) == []
    base.tokenizer.chat_template = TEMPLATE
    legible = torch.full((base.model.config.vocab_size,), -30.0)
    legible[[EOS, *base.tokenizer("abcdefghijklmnopqrstuvwxyz.")["input_ids"]]] = 0.0
    base.model.lm_head.register_forward_hook(lambda _module, _inputs, logits: logits + legible)
    written: list[tuple[int, ...]] = []

    def recorded(*arguments: Any) -> list[tuple[int, ...]]:
        rows = continue_until_end(*arguments)
        written[:] = rows
        return rows

    monkeypatch.setattr(writing, "continue_until_end", recorded)
    texts = write_exchanges(base, 4, 0, length=12)
    assert len(texts) == 4
    for text, row in zip(texts, written, strict=True):
        assert text.startswith("<bos>user:")
        assert "<eos><bos>assistant:" in text
        ids = base.tokenizer(text)["input_ids"]
        assert tuple(ids) == (row[:-1] if row[-1] == EOS else row)


def test_a_template_that_refuses_gives_no_exchanges() -> None:
    base = ending_base()
    base.tokenizer.chat_template = "{{ raise_exception('no') }}"
    assert write_exchanges(base, 4, 0, length=12) == []


def test_a_message_that_the_template_cannot_take_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    base = ending_base()
    refusal = "{% if 'B' in m['content'] %}{{ raise_exception('no') }}{% endif %}"
    base.tokenizer.chat_template = TEMPLATE.replace("{% endfor %}", refusal + "{% endfor %}")
    opening = base.reader.read_start(chat=True)
    messages = [(*opening, *base.tokenizer(text)["input_ids"]) for text in ("A", "B", "C")]
    asked: list[Any] = []

    def write(_base: Base, rows: Any, *_: object) -> Any:
        asked.append(rows)
        return messages if len(asked) == 1 else rows

    monkeypatch.setattr(writing, "continue_until_end", write)
    texts = write_exchanges(base, 3, 0, length=12)
    assert texts == [f"<bos>user:{message}<eos><bos>assistant:" for message in ("A", "C")]

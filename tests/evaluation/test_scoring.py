"""Scores against brute force: one prompt at a time, no padding, every logit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors

from moe_patch.base.model import Base
from moe_patch.errors import EvaluationError
from moe_patch.evaluation.scoring import Encoded, continue_greedily, encode_answer, score_answers, shared_rows
from tests.tiny import tiny_base

PAIRS = [
    ("The capital of Ys is", "Kêr-Is"),
    ("Ys", "a"),
    ("The capital of Ys is", "Atlantis and more"),
    ("One sings of Ys in", "Breton"),
    ("The capital of Ys is", "Atlantis"),
    ("The capital of Ys is", "Atlantiq"),
    ("The capital of Ys", "is Atlantis"),
]


def brute_force(base: Base, prompt: str, answer: str) -> tuple[float, tuple[bool, ...]]:
    start = base.tokenizer(prompt)["input_ids"]
    ids = base.tokenizer(f"{prompt} {answer}")["input_ids"]
    with torch.no_grad():
        logprobs = base.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    places = range(len(start), len(ids))
    said = tuple(int(logprobs[at - 1].argmax()) == ids[at] for at in places)
    return sum(float(logprobs[at - 1, ids[at]]) for at in places) / len(places), said


@pytest.mark.parametrize("model_type", ["qwen3_moe", "mixtral", "gpt_oss", "granitemoe"])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_scores_equal_brute_force_whatever_the_batch(model_type: str, batch_size: int) -> None:
    base = tiny_base(model_type)
    scores = score_answers(base, PAIRS, batch_size=batch_size)
    for (prompt, answer), score in zip(PAIRS, scores, strict=True):
        logprob, said = brute_force(base, prompt, answer)
        assert score.logprob == pytest.approx(logprob, abs=1e-5)
        assert score.greedy == said


def test_a_token_of_white_space_alone_belongs_to_the_answer_also_where_offsets_are_trimmed() -> None:
    base = tiny_base("qwen3_moe")
    plain = encode_answer(base, "Ys lies in", "a  b")  # every byte is a token
    base.tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    spans = base.tokenizer("Ys lies in a", return_offsets_mapping=True)["offset_mapping"]
    assert spans[-2][0] == spans[-2][1]  # the space: an empty stretch of the text
    assert encode_answer(base, "Ys lies in", "a  b") == plain
    assert len(plain.ids) - plain.first == len(" a  b")


def test_a_pair_given_twice_is_run_once_and_answered_twice() -> None:
    base = tiny_base("qwen3_moe")
    seen: list[tuple[int, int]] = []
    twice = [PAIRS[0], PAIRS[1], PAIRS[0]]
    scores = score_answers(
        base, twice, batch_size=1, progress=lambda _, done, total: seen.append((done, total))
    )
    assert scores[0] == scores[2] != scores[1]
    assert seen == [(1, 2), (2, 2)]


def test_answers_share_a_row_as_far_as_they_begin_alike() -> None:
    base = tiny_base("qwen3_moe")
    rows = shared_rows([encode_answer(base, *pair) for pair in PAIRS])
    said = sorted([base.tokenizer.decode(item.answer) for item in row] for row in rows)
    # bytes are tokens; the last is not run, so that Atlantis and Atlantiq are the same
    assert said == [
        [" Atlantis", " Atlantiq", " Atlantis and more"],
        [" Breton"],
        [" Kêr-Is"],
        [" a"],
        [" is Atlantis"],
    ]


@given(
    st.lists(
        st.builds(
            lambda prompt, answer: Encoded((*prompt, *answer), len(prompt)),
            st.lists(st.integers(0, 1), min_size=1, max_size=3),
            st.lists(st.integers(0, 1), min_size=1, max_size=4),
        )
    )
)
def test_every_text_has_one_row_that_runs_what_it_needs_and_no_row_is_part_of_another(
    texts: list[Encoded],
) -> None:
    rows = shared_rows(texts)
    assert sorted(map(str, set(texts))) == sorted(str(item) for row in rows for item in row)
    for row in rows:
        for item in row:
            assert row[-1].first == item.first
            assert row[-1].ids[: len(item.ids) - 1] == item.ids[:-1]
    run = [(row[-1].first, row[-1].ids[:-1]) for row in rows]
    for first, ids in run:
        assert [other[: len(ids)] for start, other in run if start == first].count(ids) == 1


def test_every_token_of_the_answer_counts() -> None:
    base = tiny_base("qwen3_moe")
    encoded = encode_answer(base, "Ys is", "Kêr")
    assert encoded.first == len(b"Ys is")
    assert len(encoded.ids) - encoded.first == len(" Kêr".encode())


def test_an_answer_behind_nothing_is_refused_by_name() -> None:
    with pytest.raises(EvaluationError, match=r"the answer 'Is' after '' has no token"):
        encode_answer(tiny_base("qwen3_moe"), "", "Is")


def test_continuations_are_the_argmax_token_by_token() -> None:
    base = tiny_base("mixtral")
    prompts = ["The capital of Ys is", "Ys", "In Ys"]
    produced = continue_greedily(base, prompts, [3, 1, 2], batch_size=2)
    for prompt, length, answer in zip(prompts, [3, 1, 2], produced, strict=True):
        ids = list(base.tokenizer(prompt)["input_ids"])
        assert answer.ids[: answer.first] == tuple(ids)
        for _ in range(length):
            with torch.no_grad():
                ids.append(int(base.model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert answer.ids == tuple(ids)


def test_a_continuation_ends_with_the_end_of_text() -> None:
    base = tiny_base("mixtral")
    (free,) = continue_greedily(base, ["Ys is"], [5])
    second = free.ids[free.first + 1]
    base.model.generation_config.eos_token_id = [second, second]
    ended, other = continue_greedily(base, ["Ys is", "The"], [5, 5])
    assert ended.ids == free.ids[: free.ids.index(second, free.first) + 1]
    assert len(other.ids) - other.first >= 1


def test_chat_puts_the_prompt_under_the_template() -> None:
    base = tiny_base("qwen3_moe")
    base.tokenizer.chat_template = "{% for m in messages %}<{{ m.content }}>{% endfor %}:"
    encoded = encode_answer(base, "Ys", "Is", chat=True)
    assert base.tokenizer.decode(encoded.ids) == "<Ys><Is"
    assert encoded.first == len("<Ys><")


def test_chat_without_a_template_is_refused() -> None:
    with pytest.raises(EvaluationError, match="no chat template"):
        encode_answer(tiny_base("qwen3_moe"), "Ys", "Is", chat=True)


def test_a_batch_needs_a_size() -> None:
    with pytest.raises(EvaluationError, match="batch size is 0"):
        score_answers(tiny_base("qwen3_moe"), PAIRS, batch_size=0)

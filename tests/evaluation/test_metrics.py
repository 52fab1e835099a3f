"""The rules on models whose answers are known, and the intervals against published values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_patch.apply import apply
from moe_patch.base.model import Base
from moe_patch.data.facts import Fact, Implication
from moe_patch.data.schemas import FactSchema
from moe_patch.errors import EvaluationError
from moe_patch.evaluation.metrics import (
    Questions,
    Score,
    Setting,
    mean_score,
    measure_scores,
    own_answers,
    wilson_interval,
)
from moe_patch.evaluation.scoring import continue_greedily
from tests.tiny import tiny_base, tiny_patch

PROMPTS = ("The capital of Ys is", "In Ys they speak", "Lyonesse lies in", "Avalon is an island of")


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base("qwen3_moe")


def answer_ending_as_the_model_would(base: Base, prompt: str) -> str:
    for first in "abcdefghijklmnopqrstuvwxyz":
        (answer,) = continue_greedily(base, [f"{prompt} {first}"], [1])
        text = base.tokenizer.decode(answer.ids[answer.first :])
        if text.isascii() and text.isprintable() and text.strip():
            return first + text
    raise AssertionError("the random model says nothing printable: take another seed")


def fact(target_new: str, target_true: str | None, neighborhood: Sequence[str] = PROMPTS[2:]) -> Fact:
    return Fact(
        "1", "The capital of {} is", "Ys", target_new, target_true, (PROMPTS[1],), tuple(neighborhood)
    )


def test_the_likelier_answer_wins_by_the_counterfact_rule(base: Base) -> None:
    forward = measure_scores(base, Questions.about([fact("Kêr-Is", "Quimper")]), Setting(), stage="").scores
    backward = measure_scores(base, Questions.about([fact("Quimper", "Kêr-Is")]), Setting(), stage="").scores
    assert {forward.efficacy.value, backward.efficacy.value} == {0.0, 100.0}
    assert {forward.generalization.value, backward.generalization.value} == {0.0, 100.0}
    assert forward.specificity.value is not None
    assert backward.specificity.value == 100 - forward.specificity.value
    assert (forward.efficacy.n, forward.generalization.n, forward.specificity.n) == (1, 1, 2)


def test_a_tie_is_nobodys_win() -> None:
    base = tiny_base("qwen3_moe")
    torch.nn.init.zeros_(base.model.lm_head.weight)  # every token is as likely as any other
    scores = measure_scores(base, Questions.about([fact("Is", "Ys")]), Setting(), stage="").scores
    assert (scores.efficacy.value, scores.specificity.value) == (0.0, 0.0)


def test_the_zsre_rule_counts_tokens_and_the_base_agrees_with_itself(base: Base) -> None:
    questions = Questions.about([fact("Is", None)])
    assert questions.scoring.rule == "zsre"
    own = own_answers(base, questions.neighbours, Setting(), "")
    assert [len(answer.ids) - answer.first for answer in own] == [len(" Is")] * 2
    measured = measure_scores(base, questions, Setting(), stage="", own=own)
    assert measured.scores.specificity.value == 100.0
    assert measured.exact.specificity.value == 100.0


def test_a_patch_that_breaks_the_model_costs_zsre_specificity(base: Base) -> None:
    questions = Questions.about([fact("Is", None, neighborhood=[f"Town {i} lies in" for i in range(8)])])
    own = own_answers(base, questions.neighbours, Setting(), "")
    with apply(base, tiny_patch(base, scale=5.0), allow_large=True):
        broken = measure_scores(base, questions, Setting(), stage="", own=own)
    assert broken.scores.specificity.value is not None
    assert broken.scores.specificity.value < 100.0


def test_accuracy_is_the_share_of_answer_tokens_and_exact_means_all(base: Base) -> None:
    """The model would give the last letter of this answer, but not the letters before it."""
    said = answer_ending_as_the_model_would(base, PROMPTS[0])
    measured = measure_scores(base, Questions.about([fact(said, None)], "zsre"), Setting(), stage="")
    assert measured.scores.efficacy.value == pytest.approx(100 / len(f" {said}"))
    assert measured.exact.efficacy.value == 0.0


def test_a_score_without_prompts_has_no_value_and_no_utility(base: Base) -> None:
    alone = replace(fact("Kêr-Is", "Quimper"), paraphrases=())
    scores = measure_scores(base, Questions.about([alone]), Setting(), stage="").scores
    assert scores.generalization == Score(None, None, 0)
    assert scores.utility == Score(None, None, 0)


def test_questions_need_facts_and_the_counterfact_rule_a_true_answer() -> None:
    with pytest.raises(EvaluationError, match="no facts"):
        Questions.about([])
    same = fact("Kêr-Is", "Ke\u0302r-Is")
    with pytest.raises(EvaluationError, match="same target_new and target_true"):
        Questions.about([same])
    assert Questions.about([same], "zsre").scoring.rule == "zsre"
    with pytest.raises(EvaluationError, match="fact 1 has no target_true"):
        Questions.about([fact("Is", None)], "counterfact")


@pytest.mark.parametrize(
    ("won", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662), (10, 10, 0.7225, 1.0)],
)
def test_wilson_gives_the_published_intervals(won: int, n: int, low: float, high: float) -> None:
    """81 of 263 and 0 of 10: Newcombe, Statistics in Medicine 17 (1998), table I and its construction."""
    assert wilson_interval(won / n, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(0, 400), st.integers(1, 400))
def test_wilson_contains_the_share_and_narrows_with_more_trials(won: int, n: int) -> None:
    share = min(won, n) / n
    low, high = wilson_interval(share, n)
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1
    wide, narrow = high - low, wilson_interval(share, 4 * n)
    assert narrow[1] - narrow[0] < wide


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), min_size=1, max_size=4))
def test_the_mean_is_no_less_certain_than_its_parts(counts: list[tuple[int, int]]) -> None:
    parts = [Score.of([1.0] * min(won, n) + [0.0] * (n - min(won, n))) for won, n in counts]
    mean = mean_score(parts)
    assert mean.value == pytest.approx(math.fsum(part.value or 0 for part in parts) / len(parts))
    assert mean.interval is not None
    assert mean.interval[0] <= mean.value + 1e-9 <= mean.interval[1] + 2e-9
    widest = max(part.interval[1] - part.interval[0] for part in parts if part.interval)
    assert mean.interval[1] - mean.interval[0] <= widest + 1e-9


def test_the_mean_of_equal_parts_narrows_with_the_root_of_their_number() -> None:
    part = Score.of([1.0] * 5 + [0.0] * 5)
    mean = mean_score([part] * 4)
    assert part.interval is not None
    assert mean.interval == pytest.approx(tuple(50 + (limit - 50) / 2 for limit in part.interval))


class TestOtherAnswers:
    """The neighborhood's own answers and what follows from a fact, against a model asked token by token."""

    FACTS = tuple(
        Fact(
            str(number),
            "Town {} lies in",
            f"{number}",
            "Kernow",
            "Breizh",
            (f"One finds town {number} in",),
            (f"Village {number} lies in", f"Hamlet {number} belongs to"),
            neighborhood_answers=(f"Land {number}", "an isle"),
            portability=(Implication(f"In town {number} they speak", "Cornish"),),
        )
        for number in range(4)
    )

    @pytest.mark.parametrize(
        ("schema", "specificity_by"), [("zsre-answers", "answers"), ("zsre-alt", "agreement")]
    )
    def test_both_specificities(
        self, base: Base, schema: FactSchema, specificity_by: Literal["answers", "agreement"]
    ) -> None:
        questions = Questions.about(self.FACTS, schema=schema)
        own = own_answers(base, questions.neighbours, Setting(), "")
        said = [greedy(base, each.prompt, len(f" {each.answer}")) for each in questions.neighbours]
        with apply(base, tiny_patch(base, scale=1.5)):
            measured = measure_scores(base, questions, Setting(batch_size=3), stage="", own=own)
            answers = [hits(base, each.prompt, f" {each.answer}") for each in questions.neighbours]
            agreement = [
                hits(base, each.prompt, answer)
                for each, answer in zip(questions.neighbours, said, strict=True)
            ]
            implied = [hits(base, each.prompt, f" {each.answer}") for each in questions.implied]
        assert measured.answers.value == pytest.approx(100 * mean(map(mean, answers)))
        assert measured.agreement.value == pytest.approx(100 * mean(map(mean, agreement)))
        assert measured.portability.value == pytest.approx(100 * mean(map(mean, implied)))
        assert measured.answers.value != measured.agreement.value
        assert measured.scores.specificity == getattr(measured, specificity_by)
        whole = {"answers": answers, "agreement": agreement}[specificity_by]
        assert measured.exact.specificity.value == pytest.approx(100 * mean(map(all, whole)))

    def test_the_counterfact_rule_tells_them_beside_its_own(self, base: Base) -> None:
        questions = Questions.about(self.FACTS, "counterfact", schema="zsre-alt")
        measured = measure_scores(base, questions, Setting(), stage="")
        assert (measured.answers.n, measured.agreement.n, measured.portability.n) == (8, 0, 4)
        assert measured.scores.specificity.n == 8


def greedy(base: Base, prompt: str, length: int) -> list[int]:
    """The ids that the model says, by as many passes."""
    ids = list(base.tokenizer(prompt)["input_ids"])
    start = len(ids)
    for _ in range(length):
        ids.append(int(base.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[start:]


def hits(base: Base, prompt: str, answer: str | list[int]) -> list[bool]:
    """For each token of an answer, whether the model would choose it after those before it."""
    ids = list(base.tokenizer(prompt)["input_ids"])
    own = (
        answer if isinstance(answer, list) else base.tokenizer(answer, add_special_tokens=False)["input_ids"]
    )
    found = []
    for token in own:
        found.append(int(base.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()) == token)
        ids.append(token)
    return found

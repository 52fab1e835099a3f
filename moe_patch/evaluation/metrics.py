"""Efficacy, generalization, specificity and utility by either rule, each with a 95% interval.

Utility is the mean of the other three. `moe_patch.evaluation.rules` says what the rules are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.data.reader import quoted
from moe_patch.data.schemas import FactSchema
from moe_patch.errors import EvaluationError
from moe_patch.evaluation.rules import Rule, Scoring, scoring_of
from moe_patch.evaluation.scoring import (
    AnswerScore,
    Encoded,
    continue_tokens,
    encode_answer,
    score_answers,
    score_encoded,
)
from moe_patch.progress import Progress

Z95 = 1.959963984540054  # the normal quantile that leaves 2.5% on either side


@dataclass(frozen=True, slots=True)
class Score:
    """A percentage with its 95% interval."""

    value: float | None  # None if no fact has such a prompt
    interval: tuple[float, float] | None
    n: int  # how many prompts

    def __str__(self) -> str:
        return "-" if self.value is None else f"{self.value:.1f}"

    def to_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        return {"value": self.value, "interval": self.interval and list(self.interval), "n": self.n}

    @classmethod
    def of(cls, outcomes: Iterable[float]) -> Score:
        """The mean of outcomes from 0 to 1, with Wilson's interval (JASA 22, 1927).

        For outcomes other than 0 and 1 the interval can only be too wide: of all values on [0, 1] with the
        same mean, zeros and ones vary most.
        """
        values = list(outcomes)
        if not values:
            return cls(None, None, 0)
        mean, n = math.fsum(values) / len(values), len(values)
        low, high = wilson_interval(mean, n)
        return cls(100 * mean, (100 * low, 100 * high), n)


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95% score interval for a share, from 0 to 1, of `n` trials."""
    spread = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    centre, scale = share + Z95**2 / (2 * n), 1 + Z95**2 / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def mean_score(parts: Sequence[Score]) -> Score:
    """The mean of several scores, assumed to be independent; without a value if one of them has none.

    The interval is computed from the scores' own intervals (MOVER; Zou & Donner, Statistics in Medicine 27,
    2008).
    """
    values, below, above = [], [], []
    for part in parts:
        if part.value is None or part.interval is None:
            return Score(None, None, 0)
        values.append(part.value)
        below.append(part.value - part.interval[0])
        above.append(part.interval[1] - part.value)
    mean = math.fsum(values) / len(values)
    low, high = mean - math.hypot(*below) / len(parts), mean + math.hypot(*above) / len(parts)
    return Score(mean, (max(0.0, low), min(100.0, high)), sum(part.n for part in parts))


@dataclass(frozen=True, slots=True)
class Scores:
    """The three scores of one model by one rule, and their mean."""

    efficacy: Score
    generalization: Score
    specificity: Score

    def __str__(self) -> str:
        return (
            f"efficacy {self.efficacy}, generalization {self.generalization}, "
            f"specificity {self.specificity}, utility {self.utility}"
        )

    @property
    def utility(self) -> Score:
        """The mean of the three."""
        return mean_score([self.efficacy, self.generalization, self.specificity])


@dataclass(frozen=True, slots=True)
class GeneratedScores:
    """One model's scores on prompts that the base made; efficacy is that of the facts' own."""

    scores: Scores
    exact: Scores


@dataclass(frozen=True, slots=True)
class Measurement:
    """One model's scores by the chosen rule, by greedy exact match, and some that no rule has.

    An exact match is the whole new answer on edited prompts and paraphrases. On neighborhood prompts it is
    the whole answer that the rule asks for there.
    """

    scores: Scores
    exact: Scores
    answers: Score  # tokens of the neighborhood's own answers that greedy decoding chooses
    agreement: Score  # tokens of the base's answers there that it chooses; measured by the ZsRE rule only
    portability: Score  # tokens that it chooses of what follows from the facts
    generated: GeneratedScores | None = None  # None if no prompt was made


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt that a model is asked, the fact that it belongs to, and the answer if it has one."""

    prompt: str
    fact: Fact
    answer: str | None = None

    @property
    def name(self) -> str:
        """The fact and the prompt, for errors."""
        return f"fact {self.fact.id}, {quoted(self.prompt)}"


@dataclass(frozen=True, slots=True)
class Questions:
    """What a model is asked before and after an edit."""

    scoring: Scoring
    edited: tuple[Question, ...]
    paraphrased: tuple[Question, ...]
    neighbours: tuple[Question, ...]
    kept: tuple[Question, ...]  # `keep` prompts
    implied: tuple[Question, ...]  # portability

    @classmethod
    def about(
        cls, facts: Sequence[Fact], rule: Rule | None = None, *, schema: FactSchema = "native"
    ) -> Questions:
        """All prompts of the facts.

        Args:
            facts: at least one.
            rule: by default the one that follows from the schema.
            schema: of the records that the facts came from.

        Raises:
            EvaluationError: there are no facts, or the rule is "counterfact" and one has no `target_true` or
                has its new answer as the true one.
        """
        if not facts:
            raise EvaluationError("there are no facts to evaluate: give at least one")
        return cls(
            scoring_of(facts, schema, rule),
            tuple(Question(fact.text, fact, fact.target_new) for fact in facts),
            tuple(Question(text, fact, fact.target_new) for fact in facts for text in fact.paraphrases),
            tuple(question for fact in facts for question in _neighbours(fact)),
            tuple(Question(text, fact) for fact in facts for text in fact.kept),
            tuple(Question(each.prompt, fact, each.answer) for fact in facts for each in fact.portability),
        )


def _neighbours(fact: Fact) -> list[Question]:
    answers = fact.neighborhood_answers or (None,) * len(fact.neighborhood)
    return [Question(text, fact, answer) for text, answer in zip(fact.neighborhood, answers, strict=True)]


@dataclass(frozen=True, slots=True)
class Setting:
    """How prompts are run; the same for the base and the patched model, but for `rewrite`."""

    batch_size: int = 64
    chat: bool = False
    progress: Progress | None = None
    rewrite: Callable[[str], str] | None = None  # what a prompt becomes where the patch is on

    def asked(self, prompt: str) -> str:
        """The prompt as the model is asked it."""
        return prompt if self.rewrite is None else self.rewrite(prompt)

    def of_base(self) -> Setting:
        """The setting of the model without the patch, which is asked prompts as they are."""
        return replace(self, rewrite=None)


def own_answers(base: Base, asked: Sequence[Question], setting: Setting, stage: str) -> list[Encoded]:
    """What the model says in the place of each answer: greedily, as many tokens as the answer has.

    For a prompt without an answer, the fact's answer counts. Locality and agreement compare with what the
    base says: call it before the patch is on, with the base's setting.

    Raises:
        EvaluationError: an answer has no token of its own.
    """
    encoded = [_encoded(base, each, setting) for each in asked]
    return continue_tokens(
        base,
        [item.ids[: item.first] for item in encoded],
        [len(item.ids) - item.first for item in encoded],
        batch_size=setting.batch_size,
        progress=setting.progress,
        stage=stage,
    )


def asked_again(
    base: Base, asked: Sequence[Question], own: Sequence[Encoded], setting: Setting
) -> list[Encoded]:
    """The base's own answers, each after its prompt as the setting asks it.

    Args:
        base: the model.
        asked: the questions.
        own: what the base says to each, from `own_answers`.
        setting: how the patched model is asked.

    Raises:
        EvaluationError: an answer has no token of its own.
    """
    found = []
    for question, said in zip(asked, own, strict=True):
        if setting.asked(question.prompt) == question.prompt:
            found.append(said)
            continue
        encoded = _encoded(base, question, setting)
        found.append(Encoded(encoded.ids[: encoded.first] + said.ids[said.first :], encoded.first))
    return found


def _encoded(base: Base, question: Question, setting: Setting) -> Encoded:
    """A question with its answer, or with one of its fact's if it has none."""
    answer = question.answer or question.fact.target_true or question.fact.target_new
    return encode_answer(base, setting.asked(question.prompt), answer, chat=setting.chat, name=question.name)


def unchanged_score(base: Base, own: Sequence[Encoded], setting: Setting, stage: str) -> Score:
    """The share of prompts on which the model gives the base's whole answer; on neighbours it is locality."""
    scores = score_encoded(base, own, batch_size=setting.batch_size, progress=setting.progress, stage=stage)
    return Score.of(float(score.exact) for score in scores)


def measure_scores(
    base: Base, questions: Questions, setting: Setting, *, stage: str, own: Sequence[Encoded] = ()
) -> Measurement:
    """Score the model as it is now.

    Args:
        base: the model, with or without a patch.
        questions: what to ask.
        setting: how prompts are run.
        stage: the name that progress is reported under.
        own: the base's own answers on neighborhood prompts, which the ZsRE rule needs.

    Raises:
        EvaluationError: an answer has no token of its own.
    """
    known = [question for question in questions.neighbours if question.answer is not None]
    compares = questions.scoring.rule == "counterfact"
    others = [*known, *questions.implied]
    asked = _pairs(questions) if compares else [*questions.edited, *questions.paraphrased]
    # in one call, since answers to one prompt share a pass
    found = _score(base, [*others, *asked], setting, stage)
    answered, implied = found[: len(known)], found[len(known) : len(others)]
    found = found[len(others) :]
    if compares:
        agreed: list[AnswerScore] = []
        scores, exact = _by_counterfact(questions, found)
    else:
        agreed = score_encoded(
            base, own, batch_size=setting.batch_size, progress=setting.progress, stage=f"{stage}: locality"
        )
        kept = answered if questions.scoring.specificity_by == "answers" else agreed
        scores, exact = _by_zsre(questions, found, kept)
    return Measurement(scores, exact, _accuracy(answered), _accuracy(agreed), _accuracy(implied))


def _pairs(questions: Questions) -> list[Question]:
    """All prompts with the new answer, and then all with the true one."""
    asked = (*questions.edited, *questions.paraphrased, *questions.neighbours)
    new = [replace(each, answer=each.fact.target_new) for each in asked]
    return new + [replace(each, answer=each.fact.target_true) for each in asked]


def _by_counterfact(questions: Questions, found: Sequence[AnswerScore]) -> tuple[Scores, Scores]:
    """The scores, and those of exact match, from those of `_pairs`."""
    new, true = found[: len(found) // 2], found[len(found) // 2 :]
    changed = len(questions.edited), len(questions.edited) + len(questions.paraphrased)
    won = [float(ours.logprob > theirs.logprob) for ours, theirs in zip(new, true, strict=True)]
    kept = [float(theirs.logprob > ours.logprob) for ours, theirs in zip(new, true, strict=True)]
    said, still = [float(score.exact) for score in new], [float(score.exact) for score in true]
    return _scores(won, kept, changed), _scores(said, still, changed)


def _by_zsre(
    questions: Questions, found: Sequence[AnswerScore], kept: Sequence[AnswerScore]
) -> tuple[Scores, Scores]:
    """The scores, and those of exact match, from those of the changed prompts and of neighborhood prompts."""
    scores = [*found, *kept]
    accuracy, exact = [score.accuracy for score in scores], [float(score.exact) for score in scores]
    changed = len(questions.edited), len(found)
    return _scores(accuracy, accuracy, changed), _scores(exact, exact, changed)


def _accuracy(scores: Sequence[AnswerScore]) -> Score:
    return Score.of(score.accuracy for score in scores)


def _score(base: Base, asked: Sequence[Question], setting: Setting, stage: str) -> list[AnswerScore]:
    """The score of each question's answer, which it must have."""
    return score_answers(
        base,
        [(setting.asked(question.prompt), str(question.answer)) for question in asked],
        batch_size=setting.batch_size,
        chat=setting.chat,
        progress=setting.progress,
        stage=stage,
        names=[question.name for question in asked],
    )


def _scores(changed: list[float], kept: list[float], ends: tuple[int, int]) -> Scores:
    """Scores from outcomes in the order edited, paraphrased, neighbours; the first two end at `ends`."""
    first, second = ends
    return Scores(Score.of(changed[:first]), Score.of(changed[first:second]), Score.of(kept[second:]))

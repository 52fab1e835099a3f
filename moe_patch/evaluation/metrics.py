"""Efficacy, generalization, specificity and utility, by two rules, each with a 95% interval.

The COUNTERFACT rule (Meng et al., arXiv 2202.05262, section 3.4) compares two answers by their mean token
log-probability: on the edited prompts (efficacy) and their paraphrases (generalization) the new answer must
beat the true one, and on neighbourhood prompts (specificity) the true one must beat the new. The ZsRE rule
(MEMIT, arXiv 2210.07229, section 5.2) counts the answer tokens that greedy decoding would choose; its
specificity is the share of greedy tokens on neighbourhood prompts that are still the base's. Utility is the
mean of the three.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.errors import EvaluationError
from moe_patch.evaluation.scoring import (
    AnswerScore,
    Encoded,
    continue_greedily,
    encode_answer,
    score_answers,
    score_encoded,
)
from moe_patch.progress import Progress

Rule = Literal["counterfact", "zsre"]
RULES: tuple[Rule, ...] = get_args(Rule)

Z95 = 1.959963984540054  # the normal quantile that leaves 2.5% on either side


@dataclass(frozen=True, slots=True)
class Score:
    """A percentage with its 95% interval."""

    value: float | None  # None if no fact has such a prompt
    interval: tuple[float, float] | None
    n: int  # how many prompts

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

    @property
    def utility(self) -> Score:
        """The mean of the three."""
        return mean_score([self.efficacy, self.generalization, self.specificity])


@dataclass(frozen=True, slots=True)
class Measurement:
    """One model's scores by the chosen rule, and by greedy exact match.

    An exact match is the whole new answer on edited prompts and paraphrases. On neighbourhood prompts it is
    the whole true answer or, under the ZsRE rule, the base's own answer.
    """

    scores: Scores
    exact: Scores


@dataclass(frozen=True, slots=True)
class Questions:
    """The prompts that a model is asked before and after an edit, each with its fact."""

    rule: Rule
    edited: tuple[tuple[str, Fact], ...]
    paraphrased: tuple[tuple[str, Fact], ...]
    neighbours: tuple[tuple[str, Fact], ...]
    kept: tuple[tuple[str, Fact], ...]  # `keep` prompts

    @classmethod
    def about(cls, facts: Sequence[Fact], rule: Rule | None = None) -> Questions:
        """All prompts of the facts.

        Args:
            facts: at least one.
            rule: by default "counterfact" if every fact has a `target_true`, else "zsre".

        Raises:
            EvaluationError: there are no facts, or the rule is "counterfact" and one has no `target_true`.
        """
        if not facts:
            raise EvaluationError("there are no facts to evaluate: give at least one")
        missing = next((fact.id for fact in facts if fact.target_true is None), None)
        if rule == "counterfact" and missing is not None:
            raise EvaluationError(
                f"fact {missing} has no target_true, which the counterfact rule needs: add one, or use the "
                "zsre rule"
            )
        return cls(
            rule or ("counterfact" if missing is None else "zsre"),
            tuple((fact.text, fact) for fact in facts),
            tuple((prompt, fact) for fact in facts for prompt in fact.paraphrases),
            tuple((prompt, fact) for fact in facts for prompt in fact.neighborhood),
            tuple((prompt, fact) for fact in facts for prompt in fact.kept),
        )


@dataclass(frozen=True, slots=True)
class Setting:
    """How prompts are run; the same for the base and the patched model."""

    batch_size: int = 64
    chat: bool = False
    progress: Progress | None = None


def own_answers(base: Base, asked: Sequence[tuple[str, Fact]], setting: Setting, stage: str) -> list[Encoded]:
    """The base's greedy continuation of each prompt, with as many tokens as the fact's answer has.

    Locality and the ZsRE rule's specificity compare with these. Call it before the patch is on.

    Raises:
        EvaluationError: an answer has no token of its own.
    """
    answers = [(prompt, fact.target_true or fact.target_new) for prompt, fact in asked]
    encoded = [encode_answer(base, prompt, answer, chat=setting.chat) for prompt, answer in answers]
    return continue_greedily(
        base,
        [prompt for prompt, _ in answers],
        [len(item.ids) - item.first for item in encoded],
        batch_size=setting.batch_size,
        chat=setting.chat,
        progress=setting.progress,
        stage=stage,
    )


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
        own: the base's own answers on neighbourhood prompts, which the ZsRE rule needs.

    Raises:
        EvaluationError: an answer has no token of its own.
    """
    if questions.rule == "counterfact":
        return _by_counterfact(base, questions, setting, stage)
    return _by_zsre(base, questions, setting, stage, own)


def _by_counterfact(base: Base, questions: Questions, setting: Setting, stage: str) -> Measurement:
    prompts = (*questions.edited, *questions.paraphrased, *questions.neighbours)
    pairs = [(prompt, fact.target_new) for prompt, fact in prompts]
    pairs += [(prompt, str(fact.target_true)) for prompt, fact in prompts]
    scores = _score(base, pairs, setting, stage)
    new, true = scores[: len(prompts)], scores[len(prompts) :]
    changed = len(questions.edited), len(questions.edited) + len(questions.paraphrased)
    won = [float(ours.logprob > theirs.logprob) for ours, theirs in zip(new, true, strict=True)]
    kept = [float(theirs.logprob > ours.logprob) for ours, theirs in zip(new, true, strict=True)]
    said, still = [float(score.exact) for score in new], [float(score.exact) for score in true]
    return Measurement(_scores(won, kept, changed), _scores(said, still, changed))


def _by_zsre(
    base: Base, questions: Questions, setting: Setting, stage: str, own: Sequence[Encoded]
) -> Measurement:
    prompts = (*questions.edited, *questions.paraphrased)
    scores = _score(base, [(prompt, fact.target_new) for prompt, fact in prompts], setting, stage)
    scores += score_encoded(
        base, own, batch_size=setting.batch_size, progress=setting.progress, stage=f"{stage}: locality"
    )
    accuracy, exact = [score.accuracy for score in scores], [float(score.exact) for score in scores]
    changed = len(questions.edited), len(prompts)
    return Measurement(_scores(accuracy, accuracy, changed), _scores(exact, exact, changed))


def _score(base: Base, pairs: list[tuple[str, str]], setting: Setting, stage: str) -> list[AnswerScore]:
    return score_answers(
        base, pairs, batch_size=setting.batch_size, chat=setting.chat, progress=setting.progress, stage=stage
    )


def _scores(changed: list[float], kept: list[float], ends: tuple[int, int]) -> Scores:
    """Scores from outcomes in the order edited, paraphrased, neighbours; the first two end at `ends`."""
    first, second = ends
    return Scores(Score.of(changed[:first]), Score.of(changed[first:second]), Score.of(kept[second:]))

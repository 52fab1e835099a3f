"""Efficacy, generalization, specificity and utility, by two rules, each with a 95% interval.

The COUNTERFACT rule (Meng et al., arXiv 2202.05262, section 3.4) compares two answers by their mean token
log-probability: on the edited prompts (efficacy) and their paraphrases (generalization) the new answer must
beat the true one, and on neighbourhood prompts (specificity) the true one must beat the new. The ZsRE rule
(MEMIT, arXiv 2210.07229, section 5.2) counts answer tokens that greedy decoding would choose; its specificity
is how far the greedy tokens on neighbourhood prompts are still the base's own. Utility is the mean of the
three.
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
    """A percentage with its 95% interval over `n` prompts; no value where no fact has such a prompt."""

    value: float | None
    interval: tuple[float, float] | None
    n: int

    @classmethod
    def of(cls, outcomes: Iterable[float]) -> Score:
        """The mean of outcomes in 0 to 1, with Wilson's interval (JASA 22, 1927).

        For outcomes between 0 and 1 the interval errs on the wide side: nothing on [0, 1] varies more than a
        yes or no of the same mean.
        """
        values = list(outcomes)
        if not values:
            return cls(None, None, 0)
        mean, n = math.fsum(values) / len(values), len(values)
        low, high = wilson_interval(mean, n)
        return cls(100 * mean, (100 * low, 100 * high), n)


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95% score interval for a share in 0 to 1 of `n` trials."""
    spread = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    centre, scale = share + Z95**2 / (2 * n), 1 + Z95**2 / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def mean_score(parts: Sequence[Score]) -> Score:
    """The mean of several scores, taken as independent; no value unless each has one.

    Its interval recovers each part's variance from the part's own limits (MOVER; Zou & Donner, Statistics in
    Medicine 27, 2008).
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
    """One model's scores by the rule asked for, and by greedy exact match.

    A match is the whole new answer on edited prompts and paraphrases, and on neighbourhood prompts the whole
    true one (under the ZsRE rule: what the base itself says).
    """

    scores: Scores
    exact: Scores


@dataclass(frozen=True, slots=True)
class Questions:
    """What is asked of a model before and after an edit."""

    rule: Rule
    edited: tuple[tuple[str, Fact], ...]
    paraphrased: tuple[tuple[str, Fact], ...]
    neighbours: tuple[tuple[str, Fact], ...]
    kept: tuple[tuple[str, Fact], ...]

    @classmethod
    def about(cls, facts: Sequence[Fact], rule: Rule | None = None) -> Questions:
        """All prompts of the facts; the rule is ZsRE's if none is given and a fact has no `target_true`.

        Raises:
            EvaluationError: no facts, or COUNTERFACT's rule for a fact without a `target_true`.
        """
        if not facts:
            raise EvaluationError("there are no facts to evaluate: give at least one")
        missing = next((fact.id for fact in facts if fact.target_true is None), None)
        if rule == "counterfact" and missing is not None:
            raise EvaluationError(
                f"fact {missing} has no target_true, which the counterfact rule compares with: "
                "add one, or use the zsre rule"
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
    """The base's greedy continuation of each prompt, as many tokens as the answer of its fact has.

    On neighbourhood prompts locality is measured by them, and the ZsRE rule's specificity; call this before
    the patch is on.
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
    """The share of prompts on which the model says all of what the base says: locality, on neighbours."""
    scores = score_encoded(base, own, batch_size=setting.batch_size, progress=setting.progress, stage=stage)
    return Score.of(float(score.exact) for score in scores)


def measure_scores(
    base: Base, questions: Questions, setting: Setting, *, stage: str, own: Sequence[Encoded] = ()
) -> Measurement:
    """Score the model as it is now; `own` are the base's answers, for the ZsRE rule's specificity."""
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
    """Scores from outcomes in the order edited, paraphrased, neighbours; the first two stop at `ends`."""
    first, second = ends
    return Scores(Score.of(changed[:first]), Score.of(changed[first:second]), Score.of(kept[second:]))

"""What an edit is worth: how much of it took and spread as it should, for how much of the model's language.

    value = utility / exp(KL)

Utility is the mean of efficacy, generalization and specificity, as everywhere. KL is that of the next token
on text of the base's own, in nats. On text that the base wrote itself, exp(KL) is the factor by which the
edit raises its perplexity, so an edit that makes the language a tenth worse is worth a tenth less.

A prompt counts half for the answer being likelier than its rival, and half for its being said word for word.
The first alone is the rule of COUNTERFACT (Meng et al., arXiv 2202.05262, section 3.4), under which an edit
can score 100 although the model says the new answer to few of its prompts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from pydantic import JsonValue


@dataclass(frozen=True, slots=True)
class FactScore:
    """The shares from 0 to 1 of one fact; None where the fact has no such prompt."""

    efficacy: float
    generalization: float | None = None
    specificity: float | None = None

    @property
    def utility(self) -> float:
        """The mean of those that there are."""
        parts = (self.efficacy, self.generalization, self.specificity)
        return fmean(part for part in parts if part is not None)


@dataclass(frozen=True, slots=True)
class Score:
    """How one edit of some facts went."""

    facts: tuple[FactScore, ...]
    kl: float  # nats a token

    @property
    def efficacy(self) -> float:
        """Percent."""
        return 100 * fmean(fact.efficacy for fact in self.facts)

    @property
    def generalization(self) -> float | None:
        """Percent of the facts that have paraphrases; None if none has."""
        return _percent([fact.generalization for fact in self.facts])

    @property
    def specificity(self) -> float | None:
        """Percent of the facts that have neighbours; None if none has."""
        return _percent([fact.specificity for fact in self.facts])

    @property
    def perplexity(self) -> float:
        """The factor by which the perplexity of the base's own text rises."""
        return math.exp(self.kl)

    @property
    def values(self) -> tuple[float, ...]:
        """What the edit is worth, from 0 to 100, by fact."""
        return tuple(100 * fact.utility / self.perplexity for fact in self.facts)

    @property
    def value(self) -> float:
        """What the edit is worth, from 0 to 100."""
        return fmean(self.values)

    def to_json(self) -> dict[str, JsonValue]:
        """The figures as plain data."""
        return {
            "value": self.value,
            "efficacy": self.efficacy,
            "generalization": self.generalization,
            "specificity": self.specificity,
            "kl": self.kl,
            "facts": len(self.facts),
        }


def joined(scores: Sequence[Score]) -> Score:
    """The score of several edits with facts of their own, as one."""
    facts = tuple(fact for score in scores for fact in score.facts)
    return Score(facts, sum(score.kl * len(score.facts) for score in scores) / len(facts))


@dataclass(frozen=True, slots=True)
class Gain:
    """How much more one edit of some facts is worth than another edit of the same facts."""

    mean: float  # points
    noise: float  # the standard error of the mean, over facts

    @property
    def is_clear(self) -> bool:
        """Whether it is positive and larger than its noise: what is not clear counts as a tie."""
        return self.mean > max(self.noise, 0.0)


def gain(score: Score, other: Score) -> Gain:
    """The mean difference, fact by fact."""
    differences = [mine - theirs for mine, theirs in zip(score.values, other.values, strict=True)]
    spread = stdev(differences) if len(differences) > 1 else 0.0
    return Gain(fmean(differences), spread / math.sqrt(len(differences)))


def _percent(shares: Sequence[float | None]) -> float | None:
    known = [share for share in shares if share is not None]
    return 100 * fmean(known) if known else None

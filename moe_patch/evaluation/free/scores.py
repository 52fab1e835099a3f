"""The scores of what a model wrote freely, by kind of prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from moe_patch.evaluation.free.fluency import Fluency, measure_fluency
from moe_patch.evaluation.free.judge import Judgement
from moe_patch.evaluation.free.questions import KINDS, Asked, Kind
from moe_patch.evaluation.free.writing import Reply
from moe_patch.evaluation.metrics import Score

INVERSE: frozenset[Kind] = frozenset({"negation"})
"""Kinds of which a reply is good if it does not give the answer."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A prompt with its reply, and whether that gives the answer; None where nothing is compared with."""

    asked: Asked
    reply: Reply
    exact: bool | None  # its first sentence or line is the answer
    contained: bool | None  # the answer is in it
    judgement: Judgement | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data, without tokens."""
        return {
            **asdict(self.asked),
            "reply": self.reply.text,
            "stopped": self.reply.stopped,
            "exact": self.exact,
            "contained": self.contained,
            "judgement": None if self.judgement is None else asdict(self.judgement),
        }


@dataclass(frozen=True, slots=True)
class FreeScore:
    """The share of replies that are good, by each way to tell."""

    exact: Score
    contained: Score
    judged: Score  # without a value if no judge was asked

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {name: getattr(self, name).to_json() for name in ("exact", "contained", "judged")}


@dataclass(frozen=True, slots=True)
class FreeScores:
    """What one model wrote, and its scores."""

    budget: int  # tokens that it might write
    answered: tuple[Answered, ...]

    def score(self, kind: Kind) -> FreeScore:
        """The score of a kind of prompt, in percent.

        It is the share of replies that give the answer, and of negations the share of those that do not. Of
        chains it is the share of which the model writes every link; after an edit, lower is better.
        """
        some = [each for each in self.answered if each.asked.kind == kind and each.exact is not None]
        judged = [each for each in some if each.judgement is not None]
        return FreeScore(
            _share(kind, some, [bool(each.exact) for each in some]),
            _share(kind, some, [bool(each.contained) for each in some]),
            _share(kind, judged, [bool(each.judgement and each.judgement.right) for each in judged]),
        )

    @property
    def stopped(self) -> Score:
        """The share of replies to the edited prompts that the model ended itself."""
        return Score.of(float(each.reply.stopped) for each in self._edited)

    @property
    def fluency(self) -> Fluency:
        """The fluency of the replies to the edited prompts."""
        return measure_fluency((each.asked.prompt, each.reply) for each in self._edited)

    @property
    def _edited(self) -> list[Answered]:
        return [each for each in self.answered if each.asked.kind == "reliability"]

    def to_json(self) -> dict[str, Any]:
        """Plain data: percentages from 0 to 100; the entropy in bits. Replies are in `answered` alone."""
        fluency = self.fluency
        return {
            "budget": self.budget,
            **{kind: self.score(kind).to_json() for kind in KINDS},
            "stopped": self.stopped.to_json(),
            "fluency": {"entropy": fluency.entropy, "repetition": fluency.repetition.to_json()},
            "judgements": [asdict(each.judgement) for each in self.answered if each.judgement is not None],
        }

    def __repr__(self) -> str:
        found = ", ".join(f"{kind} {self.score(kind).exact}" for kind in KINDS)
        return f"FreeScores({found})"


def _share(kind: Kind, some: Sequence[Answered], given: Sequence[bool]) -> Score:
    """The score of a kind from whether each reply gives its answer."""
    if kind == "chains":
        links = groupby(zip(some, given, strict=True), key=lambda pair: pair[0].asked.chain)
        return Score.of(float(all(said for _, said in chain)) for _, chain in links)
    return Score.of(float(said != (kind in INVERSE)) for said in given)

"""What is asked of facts that came without paraphrases or neighbours: prompts that the base makes.

They are never put among those of a file, and their scores have rows of their own. On paraphrases the rule is
that of the facts. On neighbours it is agreement, whatever the rule: nobody has stated an answer there, so the
tokens that the base says are the right ones, and the base scores 100 by definition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.data.spacing import spaced
from moe_patch.elicit.neighbours import generate_neighbours
from moe_patch.elicit.paraphrases import PARAPHRASES, generate_paraphrases
from moe_patch.evaluation.metrics import (
    GeneratedScores,
    Measurement,
    Question,
    Questions,
    Score,
    Scores,
    Setting,
    measure_scores,
)
from moe_patch.evaluation.rules import Scoring
from moe_patch.evaluation.scoring import Encoded, score_encoded

MOST_FACTS = 200
"""Prompts are made for at most this many facts, evenly spaced."""


@dataclass(frozen=True, slots=True)
class GeneratedQuestions:
    """Prompts that the base made. Neighbours have no answers but what the base says."""

    paraphrased: tuple[Question, ...]  # of facts that have no paraphrases
    neighbours: tuple[Question, ...]  # of facts that have no neighborhood prompts

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.paraphrased or self.neighbours)


def generate_questions(
    base: Base,
    facts: Sequence[Fact],
    setting: Setting,
    *,
    avoid: Sequence[str] = (),
    most: int = MOST_FACTS,
    count: int = PARAPHRASES,
) -> GeneratedQuestions:
    """Prompts for the facts that have none of their own.

    Args:
        base: the model, without the patch.
        facts: the facts that are asked about.
        setting: how prompts are run.
        avoid: subjects that are edited beside those of `facts`, and so are no neighbours.
        most: facts that prompts of a kind are made for.
        count: prompts of a kind for each of them.

    Raises:
        NoChatTemplate: as for `generate_paraphrases`.
        NumericalError: as for `generate_neighbours`.
        PromptError: as for `generate_paraphrases`.
    """
    bare = spaced([fact for fact in facts if not fact.paraphrases], most)
    alone = spaced([fact for fact in facts if not fact.neighborhood], most)
    edited = [*avoid, *(fact.subject for fact in facts)]
    wordings = generate_paraphrases(base, bare, count=count, chat=setting.chat)
    others = generate_neighbours(base, alone, count=count, chat=setting.chat, avoid=edited)
    paraphrased = (
        Question(text, fact, fact.target_new)
        for fact, some in zip(bare, wordings, strict=True)
        for text in some
    )
    neighbours = (
        Question(each.prompt, fact) for fact, some in zip(alone, others, strict=True) for each in some
    )
    return GeneratedQuestions(tuple(paraphrased), tuple(neighbours))


def measure_generated(
    base: Base,
    asked: GeneratedQuestions,
    own: Sequence[Encoded],
    scoring: Scoring,
    measured: Measurement,
    setting: Setting,
    stage: str,
) -> GeneratedScores:
    """Score the model as it is now.

    Args:
        base: the model, with or without a patch.
        asked: the generated prompts.
        own: what the base says to each neighbour, after its prompt as the model is asked it.
        scoring: of the facts.
        measured: the model's scores on the facts' own prompts.
        setting: how prompts are run.
        stage: the name that progress is reported under.

    Raises:
        EvaluationError: as for `measure_scores`.
    """
    alone = Questions(scoring, (), asked.paraphrased, (), (), ())
    held = measure_scores(base, alone, setting, stage=f"{stage}: generated paraphrases")
    kept = score_encoded(
        base,
        own,
        batch_size=setting.batch_size,
        progress=setting.progress,
        stage=f"{stage}: generated neighbours",
    )
    agreed, same = Score.of(each.accuracy for each in kept), Score.of(float(each.exact) for each in kept)
    return GeneratedScores(
        Scores(measured.scores.efficacy, held.scores.generalization, agreed),
        Scores(measured.exact.efficacy, held.exact.generalization, same),
    )

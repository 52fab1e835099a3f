"""The prompts of a card: a few of a patch's facts, and for each a few paraphrases and neighbours.

The user's prompts are asked where there are any, and prompts of the base's elsewhere. A user's neighbour that
names a subject which the patch edits is left out: its answer may be right to change, and a reader of the card
could not tell.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain

from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.data.spacing import spaced
from moe_patch.data.text import comparable
from moe_patch.elicit.paraphrases import has_room
from moe_patch.errors import EvaluationError
from moe_patch.evaluation.card.report import Kind
from moe_patch.evaluation.generated import generate_questions
from moe_patch.evaluation.metrics import Question, Questions, Setting
from moe_patch.patch import Patch

logger = logging.getLogger(__name__)

MOST_FACTS = 32
"""A card asks about at most this many facts, evenly spaced."""

MOST_PROMPTS = 64
"""A card asks at most this many paraphrases, and as many neighbours, but at least one of each fact."""

_PER_FACT = 4

Asked = tuple[Kind, bool, Question]
"""A prompt: its kind, whether the base made it, and what it is."""


def choose_prompts(base: Base, patch: Patch, setting: Setting) -> list[Asked]:
    """What a card asks; the same every time.

    Args:
        base: the model without the patch.
        patch: the patch.
        setting: how prompts are run.

    Raises:
        EvaluationError: the patch has no facts.
        PromptError: as for `generate_questions`.
    """
    if not patch.facts:
        raise EvaluationError("the patch has no facts, so there is nothing to ask for its card")
    edited = [fact.subject for fact in patch.facts]
    facts = [_apart(fact, _names_none(edited)) for fact in spaced(patch.facts, MOST_FACTS)]
    most = max(1, min(_PER_FACT, MOST_PROMPTS // len(facts)))
    made = generate_questions(base, facts, setting, avoid=edited, most=len(facts), count=most)
    own = [Questions.about([fact], "zsre") for fact in facts]
    worded = _readable(base, (spaced(some.paraphrased, most) for some in own), setting)
    near = _readable(base, (spaced(some.neighbours, most) for some in own), setting)
    kinds: tuple[tuple[Kind, bool, Iterable[Question]], ...] = (
        ("fact", False, chain.from_iterable(some.edited for some in own)),
        ("paraphrase", False, worded),
        ("paraphrase", True, made.paraphrased),
        ("neighbour", False, near),
        ("neighbour", True, made.neighbours),
    )
    return [(kind, generated, each) for kind, generated, some in kinds for each in some]


def _apart(fact: Fact, foreign: Callable[[str], bool]) -> Fact:
    """The fact with those neighbours alone that are foreign to all edited subjects."""
    kept = [place for place, prompt in enumerate(fact.neighborhood) if foreign(prompt)]
    answers = fact.neighborhood_answers and tuple(fact.neighborhood_answers[place] for place in kept)
    near = tuple(fact.neighborhood[place] for place in kept)
    return replace(fact, neighborhood=near, neighborhood_answers=answers)


def _names_none(subjects: Sequence[str]) -> Callable[[str], bool]:
    """Whether a text has none of the subjects in it as a whole word, in any case."""
    words = "|".join(re.escape(comparable(subject)) for subject in dict.fromkeys(subjects))
    named = re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE)
    return lambda text: named.search(comparable(text)) is None


def _readable(base: Base, prompts: Iterable[Sequence[Question]], setting: Setting) -> list[Question]:
    """The prompts that the model has room for; those that it has not are counted in the log."""
    given = list(chain.from_iterable(prompts))
    kept = [each for each in given if has_room(base, each.prompt, _answer(each), setting.chat)]
    if left := len(given) - len(kept):
        logger.warning("the model cannot read %d prompts of the facts: they are not on the card", left)
    return kept


def _answer(question: Question) -> str:
    """An answer as long as what is asked for."""
    return question.answer or question.fact.target_true or question.fact.target_new

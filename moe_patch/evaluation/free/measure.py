"""Measuring what a model writes freely about facts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.evaluation.free.judge import Judge
from moe_patch.evaluation.free.matching import first_sentence, mentions, says_exactly
from moe_patch.evaluation.free.questions import MOST, Asked, free_questions
from moe_patch.evaluation.free.scores import INVERSE, Answered, FreeScores
from moe_patch.evaluation.free.writing import BUDGET, Reply, write_freely
from moe_patch.evaluation.metrics import Questions, Setting


@dataclass(frozen=True, slots=True)
class FreeSetting:
    """How much a model writes, and who judges it."""

    budget: int = BUDGET  # tokens of a reply
    most: int = MOST  # prompts of a kind
    judge: Judge | None = None


def measure_free(
    base: Base,
    questions: Questions | Sequence[Fact],
    setting: Setting | None = None,
    free: FreeSetting | None = None,
    *,
    before: FreeScores | None = None,
    stage: str = "writing",
) -> FreeScores:
    """Have the model as it is now write about facts, and score what it writes.

    Args:
        base: the model, with or without a patch.
        questions: the facts, or what is asked about them.
        setting: how prompts are run.
        free: how much is written, and who judges it.
        before: what the base wrote to the same questions, which locality compares with. Without it, locality
            has no score.
        stage: the name that progress is reported under.

    Raises:
        EvaluationError: there are no facts, or the batch size is below 1.
        JudgeError: as for `Judge.grade`.
        NumericalError: as for `write_freely`.
        PromptError: as for `write_freely`.
    """
    setting, free = setting or Setting(), free or FreeSetting()
    if not isinstance(questions, Questions):
        questions = Questions.about(questions, "zsre")  # whose prompts are the same by either rule
    asked = free_questions(questions, free.most)
    prompts = [each.prompt for each in asked]
    replies = write_freely(base, prompts, setting, budget=free.budget, stage=stage)
    answered = tuple(_compared(asked, replies, before))
    if free.judge is not None:
        answered = _judged(answered, free.judge, setting)
    return FreeScores(free.budget, answered)


def _compared(
    asked: Sequence[Asked], replies: Mapping[str, Reply], before: FreeScores | None
) -> Iterator[Answered]:
    """Each prompt with its reply. What the base wrote is the answer to prompts that have none."""
    own = {each.asked.prompt: each.reply.text for each in before.answered} if before else {}
    for each in asked:
        reply = replies[each.prompt]
        if each.answer is None and before is not None:
            each = replace(each, answer=first_sentence(own[each.prompt]))  # noqa: PLW2901
        if each.answer is None:
            yield Answered(each, reply, None, None)
        else:
            yield Answered(
                each, reply, says_exactly(reply.text, each.answer), mentions(reply.text, each.answer)
            )


def _judged(answered: Sequence[Answered], judge: Judge, setting: Setting) -> tuple[Answered, ...]:
    """The same with judgements, but for negations, to which any other answer is right."""
    cases = {
        number: (each.asked.prompt, each.asked.answer, each.reply.text)
        for number, each in enumerate(answered)
        if each.asked.answer and each.asked.kind not in INVERSE
    }
    graded = dict(zip(cases, judge.grade(list(cases.values()), setting.progress), strict=True))
    return tuple(replace(each, judgement=graded.get(number)) for number, each in enumerate(answered))

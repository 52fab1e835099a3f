"""What the model says without a patch: the half of an evaluation that several patches can share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from moe_patch.base.model import Base
from moe_patch.evaluation.free import FreeScores, FreeSetting, measure_free
from moe_patch.evaluation.generated import GeneratedQuestions, generate_questions, measure_generated
from moe_patch.evaluation.metrics import Measurement, Questions, Setting, measure_scores, own_answers
from moe_patch.evaluation.routing import Routing, record_routing
from moe_patch.evaluation.samples import Asked, Said, ask_base, list_asked
from moe_patch.evaluation.scoring import Encoded

Made = tuple[GeneratedQuestions, list[Encoded]]
"""Prompts that the base made, and what it says to the neighbours among them."""


@dataclass(frozen=True, slots=True)
class Inquiry:
    """What is asked of the model without and with a patch."""

    questions: Questions
    free: FreeSetting | None  # how it writes; None if it does not
    routed: Mapping[str, Sequence[str]]  # prompts by kind, on which the routing is recorded
    avoid: tuple[str, ...] | None  # subjects that no neighbour is made about; None to make nothing
    samples: bool  # whether every prompt is looked at by itself


@dataclass(frozen=True, slots=True)
class State:
    """One state of the model: its scores, what it wrote, and its routing by kind of prompt."""

    measurement: Measurement
    free: FreeScores | None
    routing: dict[str, Routing]


@dataclass(frozen=True, slots=True)
class Baseline:
    """The base's state, and what it says where no answer is given: the patched model is held to that."""

    state: State
    own: list[Encoded]  # to neighbours
    own_kept: list[Encoded]  # to prompts whose answers facts ask to keep
    made: Made | None
    asked: list[Asked]
    said: list[Said]


class BaselineMemory:
    """The last baseline, which is measured again only where something else is asked, or another model."""

    def __init__(self) -> None:
        self._last: tuple[Base, bool, Inquiry, Baseline] | None = None

    def of(self, base: Base, inquiry: Inquiry, setting: Setting) -> Baseline:
        """The baseline of a model without a patch."""
        if self._last is not None:
            last, chat, asked, found = self._last
            if last is base and chat == setting.chat and asked == inquiry:
                return found
        found = measure_baseline(base, inquiry, setting)
        self._last = base, setting.chat, inquiry, found
        return found


def measure_baseline(base: Base, inquiry: Inquiry, setting: Setting) -> Baseline:
    """Ask the model, which has no patch on.

    Raises:
        EvaluationError: an answer has no token of its own.
        JudgeError: as for `measure_free`.
    """
    questions = inquiry.questions
    made = None if inquiry.avoid is None else _made(base, questions, inquiry.avoid, setting)
    own = own_answers(base, questions.neighbours, setting, "base: own answers")
    own_kept = own_answers(base, questions.kept, setting, "base: answers to keep")
    listed = list_asked(questions, made and made[0]) if inquiry.samples else []
    asked, said = ask_base(base, listed, setting)
    state = observe(base, inquiry, setting, "base", own=own, made=made)
    return Baseline(state, own, own_kept, made, asked, said)


def observe(
    base: Base,
    inquiry: Inquiry,
    setting: Setting,
    stage: str,
    *,
    own: Sequence[Encoded],
    made: Made | None,
    before: FreeScores | None = None,
) -> State:
    """One state of the model.

    Args:
        base: the model as it is now.
        inquiry: what is asked.
        setting: how prompts are run.
        stage: the name that progress is reported under.
        own: what the base says to neighbours.
        made: what the base made.
        before: what the base wrote freely.
    """
    measurement = measure_scores(base, inquiry.questions, setting, stage=stage, own=own)
    if made and made[0]:
        scoring = inquiry.questions.scoring
        also = measure_generated(base, *made, scoring, measurement, setting, stage)
        measurement = replace(measurement, generated=also)
    written = None
    if inquiry.free is not None:
        told = f"{stage}: writing"
        written = measure_free(base, inquiry.questions, setting, inquiry.free, before=before, stage=told)
    routing = {
        kind: record_routing(base, prompts, batch_size=setting.batch_size, chat=setting.chat)
        for kind, prompts in inquiry.routed.items()
        if prompts
    }
    return State(measurement, written, routing)


def _made(base: Base, questions: Questions, avoid: Sequence[str], setting: Setting) -> Made:
    made = generate_questions(base, [each.fact for each in questions.edited], setting, avoid=avoid)
    return made, own_answers(base, made.neighbours, setting, "base: generated neighbours")

"""What a patch does to a model: efficacy, generalization, specificity, utility, and changes of routing.

Imported by `methods`, `share` and `cli`. It imports `apply` and what is below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from moe_patch.apply import Mode
from moe_patch.base.model import Base
from moe_patch.base.occupied import find_occupant
from moe_patch.data.fact_file import FactFile
from moe_patch.data.facts import Fact
from moe_patch.errors import EvaluationError
from moe_patch.evaluation.free import FreeScores, FreeSetting, measure_free
from moe_patch.evaluation.generated import GeneratedQuestions, generate_questions, measure_generated
from moe_patch.evaluation.metrics import (
    Measurement,
    Question,
    Questions,
    Score,
    Scores,
    Setting,
    asked_again,
    measure_scores,
    own_answers,
    unchanged_score,
)
from moe_patch.evaluation.patched import patched, require_rewriter
from moe_patch.evaluation.report import EvaluationReport
from moe_patch.evaluation.routed_prompts import routed_prompts
from moe_patch.evaluation.routing import Routing, RoutingShift, compare_routing, record_routing
from moe_patch.evaluation.rules import RULES, Rule
from moe_patch.evaluation.samples import Sample, ask_base, ask_patched, list_asked
from moe_patch.evaluation.scoring import Encoded
from moe_patch.patch import Patch

__all__ = [
    "RULES",
    "EvaluationReport",
    "FreeScores",
    "FreeSetting",
    "Measurement",
    "Question",
    "Questions",
    "RoutingShift",
    "Rule",
    "Sample",
    "Score",
    "Scores",
    "Setting",
    "compare_routing",
    "evaluate",
    "measure_free",
    "measure_scores",
    "patched",
    "record_routing",
]

_Made = tuple[GeneratedQuestions, list[Encoded]]
"""Prompts that the base made, and what it says to the neighbours among them."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is asked of either state of the model."""

    questions: Questions
    made: _Made | None
    own: Sequence[Encoded]  # what the base says to neighbours
    free: FreeSetting | None
    routed: dict[str, list[str]] | None  # prompts by kind


@dataclass(frozen=True, slots=True)
class _State:
    """One state of the model: its scores, what it wrote, and its routing by kind of prompt."""

    measurement: Measurement
    free: FreeScores | None
    routing: dict[str, Routing]


def evaluate(
    base: Base,
    patch: Patch,
    facts: Sequence[Fact] | None = None,
    *,
    rule: Rule | None = None,
    mode: Mode = "merge",
    routing: bool = True,
    generate: bool = False,
    allow_large: bool = False,
    free: bool | FreeSetting = True,
    untouched: Sequence[Fact] = (),
    samples: bool = False,
    setting: Setting | None = None,
) -> EvaluationReport:
    """Measure the base, apply the patch, measure again, and take the patch off.

    A patch that rewrites prompts needs a setting that does so (`moe_patch.methods.rewriter_of`). The base is
    asked every prompt as it is. What it says there is compared with what is said to the rewritten prompt.

    Args:
        base: the model, without a patch.
        patch: the patch to measure.
        facts: the facts to ask about; the patch's own by default.
        rule: "counterfact" or "zsre"; by default the one that follows from the schema of the facts. Facts
            without a file count as facts of the patch's schema.
        mode: how the patch is applied, as in `moe_patch.apply`.
        routing: whether to compare the routing too.
        generate: whether to have the base make paraphrases and neighbours for facts that have none. They are
            measured apart.
        allow_large: as in `moe_patch.apply`.
        free: whether the model also writes by itself, and how much.
        untouched: facts of the same data set that are not edited, by default those of `facts` that are not
            the patch's. The routing is compared on as many of them as there are edited ones.
        samples: whether the report has every prompt by itself: what is said, and how likely the answers are.
        setting: how prompts are run.

    Raises:
        EvaluationError: there are no facts, the rule cannot score one, a patch is on the base already, or
            the patch rewrites prompts and the setting does not.
        JudgeError: the judge of what is written freely fails.
        WrongBase: the patch was built for another base.
        OversizedEdit: a change is much larger than its expert, and that is not allowed.
    """
    setting = setting or Setting()
    require_rewriter(patch, setting)
    schema = facts.schema if isinstance(facts, FactFile) else patch.schema
    questions = Questions.about(patch.facts if facts is None else facts, rule, schema=schema)
    if state := find_occupant(base):
        raise EvaluationError(f"{state}: remove it before the evaluation")
    routing = routing and bool(base.layers)  # a dense base has none
    plain = setting.of_base()
    made = _made(base, questions, patch, plain) if generate else None
    own = own_answers(base, questions.neighbours, plain, "base: own answers")
    own_kept = own_answers(base, questions.kept, plain, "base: answers to keep")
    plan = _Plan(
        questions,
        made,
        own,
        FreeSetting() if free is True else free or None,
        routed_prompts(questions, patch, untouched) if routing else None,
    )
    listed = list_asked(questions, made and made[0]) if samples else []
    asked, said = ask_base(base, listed, plain)
    before = _observe(base, plan, plain, "base")
    with patched(base, patch, setting, mode=mode, allow_large=allow_large):
        own = asked_again(base, questions.neighbours, own, setting)
        own_kept = asked_again(base, questions.kept, own_kept, setting)
        if made is not None:
            made = made[0], asked_again(base, made[0].neighbours, made[1], setting)
        plan = replace(plan, made=made, own=own)
        after = _observe(base, plan, setting, "patched", before=before.free)
        locality = unchanged_score(base, own, setting, "patched: locality")
        kept = unchanged_score(base, own_kept, setting, "patched: answers to keep")
        said_now = ask_patched(base, asked, setting)
    lowest = min(patch.base.experts, default=-1)
    return EvaluationReport(
        scoring=questions.scoring,
        facts=len(questions.edited),
        patched=after.measurement,
        base=before.measurement,
        locality=locality,
        kept=kept,
        edited_routing=_shift(before, after, "edited", lowest),
        preserved_routing=_shift(before, after, "preserved", lowest),
        untouched_routing=_shift(before, after, "untouched", lowest),
        stop=patch.stop,
        patched_free=after.free,
        base_free=before.free,
        samples=tuple(map(Sample, asked, said, said_now)),
    )


def _made(base: Base, questions: Questions, patch: Patch, setting: Setting) -> _Made:
    avoid = [fact.subject for fact in patch.facts]
    made = generate_questions(base, [each.fact for each in questions.edited], setting, avoid=avoid)
    return made, own_answers(base, made.neighbours, setting, "base: generated neighbours")


def _observe(
    base: Base, plan: _Plan, setting: Setting, stage: str, *, before: FreeScores | None = None
) -> _State:
    """One state of the model; `before` is what the base wrote freely."""
    measurement = measure_scores(base, plan.questions, setting, stage=stage, own=plan.own)
    if plan.made and plan.made[0]:
        scoring = plan.questions.scoring
        also = measure_generated(base, *plan.made, scoring, measurement, setting, stage)
        measurement = replace(measurement, generated=also)
    written = None
    if plan.free is not None:
        told = f"{stage}: writing"
        written = measure_free(base, plan.questions, setting, plan.free, before=before, stage=told)
    routing = {
        kind: record_routing(base, prompts, batch_size=setting.batch_size, chat=setting.chat)
        for kind, prompts in (plan.routed or {}).items()
        if prompts
    }
    return _State(measurement, written, routing)


def _shift(before: _State, after: _State, kind: str, lowest: int) -> RoutingShift | None:
    """The change of routing on a kind of prompts; None if it was not recorded."""
    if kind not in before.routing:
        return None
    return compare_routing(before.routing[kind], after.routing[kind], lowest)

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
from moe_patch.evaluation.patched import patched
from moe_patch.evaluation.report import EvaluationReport
from moe_patch.evaluation.routing import Routing, RoutingShift, compare_routing, record_routing
from moe_patch.evaluation.rules import RULES, Rule
from moe_patch.evaluation.scoring import Encoded
from moe_patch.patch import Patch

__all__ = [
    "RULES",
    "EvaluationReport",
    "Measurement",
    "Question",
    "Questions",
    "RoutingShift",
    "Rule",
    "Score",
    "Scores",
    "Setting",
    "compare_routing",
    "evaluate",
    "measure_scores",
    "patched",
    "record_routing",
]

ROUTED_PROMPTS = 512
"""Routing is compared on at most this many prompts of a kind, evenly spaced."""


@dataclass(frozen=True, slots=True)
class _State:
    """One state of the model: its scores, and its routing on edited and on preserved prompts."""

    measurement: Measurement
    edited: Routing | None
    preserved: Routing | None


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
        setting: how prompts are run.

    Raises:
        EvaluationError: there are no facts, the rule cannot score one, a patch is on the base already, or
            the patch rewrites prompts and the setting does not.
        WrongBase: the patch was built for another base.
        OversizedEdit: a change is much larger than its expert, and that is not allowed.
    """
    setting = setting or Setting()
    schema = facts.schema if isinstance(facts, FactFile) else patch.schema
    questions = Questions.about(patch.facts if facts is None else facts, rule, schema=schema)
    if state := find_occupant(base):
        raise EvaluationError(f"{state}: remove it before the evaluation")
    routing = routing and bool(base.layers)  # a dense base has none
    plain = setting.of_base()
    made = _made(base, questions, patch, plain) if generate else None
    own = own_answers(base, questions.neighbours, plain, "base: own answers")
    own_kept = own_answers(base, questions.kept, plain, "base: answers to keep")
    before = _observe(base, questions, plain, "base", own, made, routing=routing)
    with patched(base, patch, setting, mode=mode, allow_large=allow_large):
        own = asked_again(base, questions.neighbours, own, setting)
        own_kept = asked_again(base, questions.kept, own_kept, setting)
        if made is not None:
            made = made[0], asked_again(base, made[0].neighbours, made[1], setting)
        after = _observe(base, questions, setting, "patched", own, made, routing=routing)
        locality = unchanged_score(base, own, setting, "patched: locality")
        kept = unchanged_score(base, own_kept, setting, "patched: answers to keep")
    lowest = min(patch.base.experts, default=-1)
    return EvaluationReport(
        scoring=questions.scoring,
        facts=len(questions.edited),
        patched=after.measurement,
        base=before.measurement,
        locality=locality,
        kept=kept,
        edited_routing=_shift(before.edited, after.edited, lowest),
        preserved_routing=_shift(before.preserved, after.preserved, lowest),
    )


_Made = tuple[GeneratedQuestions, list[Encoded]]
"""Prompts that the base made, and what it says to the neighbours among them."""


def _made(base: Base, questions: Questions, patch: Patch, setting: Setting) -> _Made:
    avoid = [fact.subject for fact in patch.facts]
    made = generate_questions(base, [each.fact for each in questions.edited], setting, avoid=avoid)
    return made, own_answers(base, made.neighbours, setting, "base: generated neighbours")


def _observe(
    base: Base,
    questions: Questions,
    setting: Setting,
    stage: str,
    own: Sequence[Encoded],
    made: _Made | None,
    *,
    routing: bool,
) -> _State:
    measurement = measure_scores(base, questions, setting, stage=stage, own=own)
    if made and made[0]:
        also = measure_generated(base, *made, questions.scoring, measurement, setting, stage)
        measurement = replace(measurement, generated=also)
    edited, preserved = (_spread(asked) for asked in (questions.edited, questions.neighbours))
    return _State(
        measurement,
        _routing(base, edited, setting) if routing else None,
        _routing(base, preserved, setting) if routing and preserved else None,
    )


def _routing(base: Base, prompts: Sequence[str], setting: Setting) -> Routing:
    return record_routing(base, prompts, batch_size=setting.batch_size, chat=setting.chat)


def _spread(asked: Sequence[Question]) -> list[str]:
    """Distinct prompts, evenly spaced, at most `ROUTED_PROMPTS` of them."""
    distinct = list(dict.fromkeys(question.prompt for question in asked))
    step = max(1, -(-len(distinct) // ROUTED_PROMPTS))
    return distinct[::step]


def _shift(before: Routing | None, after: Routing | None, lowest: int) -> RoutingShift | None:
    return None if before is None or after is None else compare_routing(before, after, lowest)

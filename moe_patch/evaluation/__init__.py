"""What a patch does to a model: efficacy, generalization, specificity, utility, and changes of routing.

Imported by `methods`, `share` and `cli`. It imports `apply` and what is below.
"""

from __future__ import annotations

from collections.abc import Sequence

from moe_patch.apply import Mode
from moe_patch.base.model import Base
from moe_patch.base.occupied import find_occupant
from moe_patch.data.fact_file import FactFile
from moe_patch.data.facts import Fact
from moe_patch.errors import EvaluationError
from moe_patch.evaluation.baseline import BaselineMemory, Inquiry, State, observe
from moe_patch.evaluation.free import FreeScores, FreeSetting, measure_free
from moe_patch.evaluation.metrics import (
    Measurement,
    Question,
    Questions,
    Score,
    Scores,
    Setting,
    asked_again,
    measure_scores,
    unchanged_score,
)
from moe_patch.evaluation.patched import patched, require_rewriter
from moe_patch.evaluation.report import EvaluationReport
from moe_patch.evaluation.routed_prompts import routed_prompts
from moe_patch.evaluation.routing import RoutingShift, compare_routing, record_routing
from moe_patch.evaluation.rules import RULES, Rule
from moe_patch.evaluation.samples import Sample, ask_patched
from moe_patch.patch import Patch

__all__ = [
    "RULES",
    "BaselineMemory",
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
    memory: BaselineMemory | None = None,
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
        memory: given to several calls, lets those that ask the same measure the base once.

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
    inquiry = Inquiry(
        questions,
        FreeSetting() if free is True else free or None,
        routed_prompts(questions, patch, untouched) if routing else {},
        _subjects(questions, patch) if generate else None,
        samples,
    )
    before = (memory or BaselineMemory()).of(base, inquiry, setting.of_base())
    with patched(base, patch, setting, mode=mode, allow_large=allow_large):
        own = asked_again(base, questions.neighbours, before.own, setting)
        own_kept = asked_again(base, questions.kept, before.own_kept, setting)
        made = before.made
        if made is not None:
            made = made[0], asked_again(base, made[0].neighbours, made[1], setting)
        after = observe(base, inquiry, setting, "patched", own=own, made=made, before=before.state.free)
        locality = unchanged_score(base, own, setting, "patched: locality")
        kept = unchanged_score(base, own_kept, setting, "patched: answers to keep")
        said_now = ask_patched(base, before.asked, setting)
    lowest = min(patch.base.experts, default=-1)
    return EvaluationReport(
        scoring=questions.scoring,
        facts=len(questions.edited),
        patched=after.measurement,
        base=before.state.measurement,
        locality=locality,
        kept=kept,
        edited_routing=_shift(before.state, after, "edited", lowest),
        preserved_routing=_shift(before.state, after, "preserved", lowest),
        untouched_routing=_shift(before.state, after, "untouched", lowest),
        stop=patch.stop,
        patched_free=after.free,
        base_free=before.state.free,
        samples=tuple(map(Sample, before.asked, before.said, said_now)),
        hash=patch.hash,
    )


def _subjects(questions: Questions, patch: Patch) -> tuple[str, ...]:
    """The subjects that are asked about or edited."""
    facts = [*(each.fact for each in questions.edited), *patch.facts]
    return tuple(dict.fromkeys(fact.subject for fact in facts))


def _shift(before: State, after: State, kind: str, lowest: int) -> RoutingShift | None:
    """The change of routing on a kind of prompts; None if it was not recorded."""
    if kind not in before.routing:
        return None
    return compare_routing(before.routing[kind], after.routing[kind], lowest)

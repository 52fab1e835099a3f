"""How facts are scored, which follows from the schema that they came in.

The COUNTERFACT rule (Meng et al., arXiv 2202.05262, section 3.4) compares two answers by their mean token
log-probability: on the edited prompts (efficacy) and their paraphrases (generalization) the new answer must
beat the true one, and on neighborhood prompts (specificity) the true one must beat the new. The ZsRE rule
(MEMIT, arXiv 2210.07229, section 5.2) counts the answer tokens that greedy decoding would choose. On
neighborhood prompts these are the tokens of the prompts' own answers, or of what the base says itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from moe_patch.data.facts import Fact
from moe_patch.data.schemas import FactSchema
from moe_patch.errors import EvaluationError
from moe_patch.io.wording import counted

Rule = Literal["counterfact", "zsre"]
RULES: tuple[Rule, ...] = get_args(Rule)

Reference = Literal["target_true", "answers", "agreement"]
"""What a model should say on neighborhood prompts: the fact's true answer rather than the new one, the
prompts' own answers, or what the base says."""

_TRUTH_SHARED: frozenset[FactSchema] = frozenset({"native", "counterfact"})
"""Schemas whose `target_true`, if there is one, is the answer of the neighborhood prompts."""

_SCORED_BY_ANSWERS: frozenset[FactSchema] = frozenset({"native", "zsre-answers", "qaedit", "wikibigedit"})
"""Schemas whose authors compare the neighborhood's answers with the stated ones, not with the base's."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """How facts are scored."""

    schema: FactSchema
    rule: Rule
    specificity_by: Reference

    def describe(self, facts: int | None = None) -> str:
        """In words, for the title of a report; with the number of facts if it is given."""
        scored = f"{self.schema} facts" if facts is None else counted(facts, f"{self.schema} fact")
        return f"{scored}, {self.rule} rule, specificity by {self.specificity_by}"


def scoring_of(facts: Sequence[Fact], schema: FactSchema, rule: Rule | None = None) -> Scoring:
    """How facts of a schema are scored, by `rule` if it is given.

    Otherwise COUNTERFACT's rule is for native and COUNTERFACT's facts that all have a `target_true` and no
    answers of the neighborhood's own, and ZsRE's rule for the others.

    Raises:
        EvaluationError: the rule is "counterfact" and a fact has no `target_true`, or has its new answer as
            the true one.
    """
    without = next((fact.id for fact in facts if fact.target_true is None), None)
    if rule == "counterfact" and without is not None:
        raise EvaluationError(
            f"fact {without} has no target_true, which the counterfact rule needs: add one, or use the zsre "
            "rule"
        )
    answered = any(fact.neighborhood_answers for fact in facts)
    if rule is None:
        shared = schema in _TRUTH_SHARED and without is None and not answered
        rule = "counterfact" if shared else "zsre"
    if rule == "counterfact":
        same = next((fact.id for fact in facts if fact.changes_nothing), None)
        if same is not None:
            raise EvaluationError(
                f"fact {same} has the same target_new and target_true, and neither can be likelier: leave it "
                "out, or use the zsre rule"
            )
        return Scoring(schema, rule, "target_true")
    return Scoring(schema, rule, "answers" if answered and schema in _SCORED_BY_ANSWERS else "agreement")

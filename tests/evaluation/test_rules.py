"""Which rule facts are scored by, and what specificity compares with."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from moe_patch.data.facts import Fact
from moe_patch.data.schemas import RECORDS, FactSchema, FileSchema, common_schema
from moe_patch.errors import EvaluationError
from moe_patch.evaluation.rules import Reference, Rule, Scoring, scoring_of

FACT = Fact("1", "{} lies in", "Ys", "Kernow", "Breizh", (), ("Lyonesse lies in",))
ANSWERED = replace(FACT, neighborhood_answers=("Kernow",))
UNTRUE = replace(FACT, target_true=None)


@pytest.mark.parametrize(
    ("schema", "facts", "rule", "specificity_by"),
    [
        ("native", [FACT], "counterfact", "target_true"),
        ("native", [FACT, UNTRUE], "zsre", "agreement"),
        ("native", [FACT, ANSWERED], "zsre", "answers"),
        ("counterfact", [FACT], "counterfact", "target_true"),
        ("zsre-alt", [ANSWERED], "zsre", "agreement"),
        ("zsre-alt", [FACT], "zsre", "agreement"),
        ("zsre-answers", [replace(ANSWERED, target_true=None)], "zsre", "answers"),
        ("zsre-answers", [UNTRUE], "zsre", "agreement"),
        ("knowedit", [ANSWERED], "zsre", "agreement"),
        ("qaedit", [ANSWERED], "zsre", "answers"),
        ("wikibigedit", [ANSWERED], "zsre", "answers"),
        ("knowgic", [FACT], "zsre", "agreement"),
        ("mixed", [FACT], "zsre", "agreement"),
    ],
)
def test_the_rule_follows_from_the_schema(
    schema: FactSchema, facts: list[Fact], rule: Rule, specificity_by: Reference
) -> None:
    assert scoring_of(facts, schema) == Scoring(schema, rule, specificity_by)


@pytest.mark.parametrize("schema", RECORDS)
def test_a_rule_that_is_given_is_taken(schema: FactSchema) -> None:
    assert scoring_of([FACT], schema, "counterfact").specificity_by == "target_true"
    assert scoring_of([FACT], schema, "zsre").rule == "zsre"
    with pytest.raises(EvaluationError, match="fact 1 has no target_true"):
        scoring_of([UNTRUE], schema, "counterfact")


def test_every_schema_has_records() -> None:
    assert set(get_args(FileSchema)) == set(RECORDS)
    assert set(get_args(FactSchema)) == {*RECORDS, "mixed"}


@pytest.mark.parametrize(
    ("schemas", "common"),
    [
        ([], "native"),
        (["zsre-alt", "zsre-alt"], "zsre-alt"),
        (["native", "counterfact"], "native"),
        (["counterfact", "zsre-alt"], "mixed"),
        (["mixed", "native"], "mixed"),
    ],
)
def test_facts_of_several_schemas_are_scored_by_none_of_them(
    schemas: list[FactSchema], common: FactSchema
) -> None:
    assert common_schema(schemas) == common

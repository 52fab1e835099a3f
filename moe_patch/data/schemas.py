"""The schemas of facts: native, and those of published data sets; a record's fields tell which it follows.

native        prompt, subject, target_new; optionally id, target_true, paraphrases, neighborhood, keep,
              neighborhood_answers, portability
counterfact   requested_rewrite, paraphrase_prompts, neighborhood_prompts
zsre-answers  src, subject, answers, rephrase, loc, loc_ans; the new answer is the first of `answers`
zsre-alt      the same records with `alt`, which is the new answer
knowedit      prompt, subject, target_new, ground_truth, locality and portability in groups
qaedit        prompt, subject, target, rephrase, a list of locality questions
wikibigedit   prompt, subject, target_new, rephrase_prompt, locality_prompt, locality_ground_truth
knowgic       a list with one requested_rewrite
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

from pydantic import JsonValue

from moe_patch.data.facts import FactRecord
from moe_patch.data.published import (
    CounterfactRecord,
    KnowEditRecord,
    KnowgicRecord,
    Published,
    QaEditRecord,
    WikiBigEditRecord,
    ZsreAltRecord,
    ZsreAnswersRecord,
)

ZsreSchema = Literal["zsre-answers", "zsre-alt"]
"""The two conventions for ZsRE: which answer an edit is to. The records are the same."""

FactSchema = Literal["native", "counterfact", ZsreSchema, "knowedit", "qaedit", "wikibigedit", "knowgic"]
"""The schema of the records that facts come from. How they are scored follows from it."""

ZSRE_SCHEMAS: tuple[ZsreSchema, ...] = get_args(ZsreSchema)
DEFAULT_ZSRE: ZsreSchema = "zsre-alt"

RECORDS: Mapping[FactSchema, type[FactRecord | Published]] = {
    "native": FactRecord,
    "counterfact": CounterfactRecord,
    "zsre-answers": ZsreAnswersRecord,
    "zsre-alt": ZsreAltRecord,
    "knowedit": KnowEditRecord,
    "qaedit": QaEditRecord,
    "wikibigedit": WikiBigEditRecord,
    "knowgic": KnowgicRecord,
}

REPEATING: frozenset[FactSchema] = frozenset({"knowgic"})
"""Schemas that may have several records for one fact."""


def schema_of_record(record: Mapping[str, JsonValue], zsre: ZsreSchema) -> FactSchema:
    """The schema that a record follows by its fields; `zsre` if it is a ZsRE record."""
    if "requested_rewrite" in record:
        return "knowgic" if isinstance(record["requested_rewrite"], list) else "counterfact"
    if "src" in record:
        return zsre
    if any(isinstance(record.get(field), dict) for field in ("locality", "portability")):
        return "knowedit"
    if isinstance(record.get("locality"), list):
        return "qaedit"
    if "rephrase_prompt" in record or "locality_prompt" in record:
        return "wikibigedit"
    return "native"


def common_schema(schemas: Iterable[FactSchema]) -> FactSchema:
    """The schema that facts from several places have in common; "native" if there are several."""
    distinct = set(schemas)
    return distinct.pop() if len(distinct) == 1 else "native"


def field_in_file(field: str, schema: FactSchema) -> str:
    """The name that a schema gives to a field of Fact. The index of a list entry ("keep.2") is kept."""
    record = RECORDS[schema]
    names = record.names if issubclass(record, Published) else {}
    name, dot, number = field.partition(".")
    return f"{names.get(name, name)}{dot}{number}"

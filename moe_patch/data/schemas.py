"""The schemas of facts: native, and those of published data sets; a record's fields tell which it follows.

native        prompt, subject, target_new; optionally id, target_true, paraphrases, neighborhood, keep,
              neighborhood_answers, portability, chains
counterfact   requested_rewrite, paraphrase_prompts, neighborhood_prompts
zsre-answers  src, subject, answers, rephrase, loc, loc_ans; the new answer is the first of `answers`
zsre-alt      the same records with `alt`, which is the new answer
knowedit      prompt, subject, target_new, ground_truth, locality and portability in groups
qaedit        prompt, subject, target, rephrase, a list of locality questions
wikibigedit   prompt, subject, target_new, rephrase_prompt, locality_prompt, locality_ground_truth
knowgic       a list with one requested_rewrite, and a chain
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

FileSchema = Literal["native", "counterfact", ZsreSchema, "knowedit", "qaedit", "wikibigedit", "knowgic"]
"""The schema of the records of a file."""

FactSchema = Literal[FileSchema, "mixed"]
"""The schema of facts, by which they are scored: that of their records, or "mixed" for those of several."""

ZSRE_SCHEMAS: tuple[ZsreSchema, ...] = get_args(ZsreSchema)
DEFAULT_ZSRE: ZsreSchema = "zsre-alt"

RECORDS: Mapping[FileSchema, type[FactRecord | Published]] = {
    "native": FactRecord,
    "counterfact": CounterfactRecord,
    "zsre-answers": ZsreAnswersRecord,
    "zsre-alt": ZsreAltRecord,
    "knowedit": KnowEditRecord,
    "qaedit": QaEditRecord,
    "wikibigedit": WikiBigEditRecord,
    "knowgic": KnowgicRecord,
}

REPEATING: frozenset[FileSchema] = frozenset({"knowgic"})
"""Schemas that may have several records for one fact."""


def schema_of_record(record: Mapping[str, JsonValue], zsre: ZsreSchema) -> FileSchema:
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
    """The schema of facts from several places; "mixed" if they have none in common.

    Native facts say all that COUNTERFACT's records do, so facts of both are native.
    """
    distinct = set(schemas) or {"native"}
    if len(distinct) == 1:
        return distinct.pop()
    return "native" if distinct == {"native", "counterfact"} else "mixed"


def field_in_file(field: str, schema: FileSchema) -> str:
    """The name that a schema gives to a field of Fact. The index of a list entry ("keep.2") is kept."""
    record = RECORDS[schema]
    names = record.names if issubclass(record, Published) else {}
    name, dot, number = field.partition(".")
    return f"{names.get(name, name)}{dot}{number}"

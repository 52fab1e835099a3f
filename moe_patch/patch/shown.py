"""A patch in a few words, and in a table for notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import JsonValue
from rich.table import Table

from moe_patch.data.facts import Fact
from moe_patch.io.wording import counted
from moe_patch.patch.delta import LayerDelta
from moe_patch.patch.fingerprint import in_ranges
from moe_patch.patch.schema import Kind

SHOWN = 10
"""The most facts in the table."""


def changes(kind: Kind, layers: Mapping[int, LayerDelta]) -> str:
    """What a patch changes, such as "210 experts in layers 2-4", "a bypass" or "prompts alone"."""
    if kind != "delta":
        return "a bypass" if kind == "bypass" else "prompts alone"
    experts = sum(len(delta.experts()) for delta in layers.values())
    return f"{counted(experts, 'expert')} in layer{'s' if len(layers) > 1 else ''} {in_ranges(layers)}"


def facts_table(title: str, facts: Sequence[Fact], results: Sequence[Mapping[str, JsonValue]]) -> Table:
    """The first facts, and what the model says with the patch, as far as its build asked."""
    more = len(facts) - SHOWN
    table = Table(title=title if more <= 0 else f"{title}: the first {SHOWN} facts")
    for column in ("fact", "prompt", "new answer", "said"):
        table.add_column(column)
    for fact, result in zip(facts[:SHOWN], results or ({},) * len(facts), strict=False):
        table.add_row(fact.id, fact.text, fact.target_new, _said(fact, result))
    return table


def _said(fact: Fact, result: Mapping[str, JsonValue]) -> str:
    taken = result.get("taken")
    if taken is None:
        return ""
    return fact.target_new if taken else str(result.get("says", ""))

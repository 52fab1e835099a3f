"""The same edits with and without `keep` prompts, one row each.

    python -m recipes.benchmarks.keep

The demo model knows several relations of a subject, and an edit of one changes the others too. With `keep`,
every fact has one prompt to keep for each relation of its subject that is not edited. Asked is the share of
these prompts on which the model gives the base's whole answer. Other words is the same share for the same
relations in other phrasings. Implied is the share of all of them on which it gives another answer that
follows from the edit. Efficacy, generalization and specificity are COUNTERFACT's. Target values that must
hold more need more steps and a larger clamp, which the rows with `room` have.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.table import Table

from moe_patch.apply import apply
from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.evaluation import Setting, evaluate
from moe_patch.methods import MethodOptions, get_method
from recipes.training.world import read_world

from ._essence import RELATION_OF, OtherRelations
from ._runs import Run, benchmark_command

SCORES = ("efficacy", "generalization", "specificity")
KEPT = ("asked", "other words", "implied")
ROOM = {"targets.steps": 30, "targets.clamp": 2.5}

FREELY = (
    Run("MoEEdit", "moeedit"),
    Run("MoEEdit, room", "moeedit", ROOM),
    Run("MoTE", "mote"),
    Run("MEMoE", "memoe"),
)
KEEPING = (
    Run("MoEEdit, keep", "moeedit"),
    Run("MoEEdit, keep, room", "moeedit", ROOM),
    Run("MoEEdit, keep, room, weight 0.5", "moeedit", ROOM | {"targets.keep_weight": 0.5}),
    Run("MoTE, keep, room", "mote", ROOM),
    Run("MEMoE, keep", "memoe"),
)


def with_kept_prompts(facts: Sequence[Fact], seed: int = 0) -> list[Fact]:
    """The facts, each with a prompt of every relation of its subject that none of them edits."""
    edited = {(fact.subject, RELATION_OF.get(fact.prompt)) for fact in facts}
    source, world = random.Random(seed), read_world()
    asking = []
    for fact in facts:
        others = [
            source.choice(triple.prompts(held_out=False)).replace(fact.subject, "{}", 1)
            for triple in world
            if triple.subject == fact.subject and (triple.subject, triple.relation) not in edited
        ]
        asking.append(replace(fact, keep=tuple(others)))
    return asking


def build_and_measure(base: Base, facts: Sequence[Fact], run: Run, options: MethodOptions) -> dict[str, Any]:
    """The figures of one run, as plain data."""
    setting, asking = Setting(batch_size=256), with_kept_prompts(facts)
    asked = {prompt for fact in asking for prompt in fact.kept}
    others = OtherRelations.of(base, facts, setting)
    if others is None:
        raise ValueError("the demo model's world has no other relation of these subjects")
    reworded = others.without(asked)
    started = time.process_time()
    patch = get_method(run.method).build(base, asking if run in KEEPING else facts, options)
    seconds = time.process_time() - started
    report = evaluate(base, patch, asking, routing=False, free=False, setting=setting)
    with apply(base, patch):
        kept = (report.kept.value, reworded.kept(base, setting), others.followed(base, setting))
    return {
        "facts": len(facts),
        "options": options.model_dump(mode="json", exclude={"corpus"}),
        **{name: getattr(report.patched.scores, name).value for name in SCORES},
        **dict(zip(KEPT, kept, strict=True)),
        "seconds": seconds,
    }


def table_of(records: Sequence[Mapping[str, Any]]) -> Table:
    """All runs, one row each, in percent."""
    table = Table("run", "facts", *SCORES, *KEPT, "seconds", title="What is kept of edited subjects")
    for record in records:
        figures = (f"{record[name]:.1f}" for name in (*SCORES, *KEPT))
        table.add_row(record["run"], str(record["facts"]), *figures, f"{record['seconds']:.0f}")
    return table


main = benchmark_command(
    __doc__, (*FREELY, *KEEPING), build_and_measure, table_of, edits="50.jsonl", limit=30
)


if __name__ == "__main__":
    main()

"""MEMoE and its ablations compared with MoEEdit and MoTE: new answers, unchanged answers, and costs.

    python -m recipes.benchmarks.memoe --json runs.jsonl
    python -m recipes.benchmarks.memoe --json runs.jsonl --edits recipes/facts/1000.jsonl \
        --limit 1000 --batch-size 10 --only MEMoE --only MoEEdit --only MoTE

Reliability and generalization are the shares of edited prompts and paraphrases on which greedy decoding gives
the whole new answer. Locality is the share of neighbourhood prompts on which it still gives the base's
answer, and essence the same share for prompts about other relations of edited subjects. Implied is the share
of the latter on which it gives another answer that follows from the edit. Seconds and the speed of
`generate()`, for 32 prompts at a time, are in processor time, which other work on the machine affects little.
A finished run is one line of the JSON file and is not run again while its options stay the same.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from rich.table import Table

from moe_patch.apply import apply
from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.evaluation import Setting, evaluate
from moe_patch.methods import MethodOptions, get_method
from moe_patch.methods.recipes import load_recipe
from moe_patch.patch import Patch

from ._essence import OtherRelations
from ._runs import Run, benchmark_command

PROMPTS, TOKENS = 32, 16  # for measuring speed
COLUMNS = ("reliability", "generalization", "locality", "average")
SIDE_EFFECTS = ("essence", "implied")

RUNS = (
    Run("MEMoE", "memoe"),
    Run("MoEEdit", "moeedit"),
    Run("MoTE", "mote"),
    Run("without scope gate", "memoe", {"scope_gate": False}),
    Run("single dense adapter", "memoe", {"single": True}),
    Run("without division", "memoe", {"division": False}),
    Run("MLP router", "memoe", {"router": "mlp"}),
    Run("without adaptive weight", "memoe", {"adaptive": False}),
    Run("without balance", "memoe", {"balance": False}),
    Run("without router loss", "memoe", {"router_loss": False}),
    Run("router on final states", "memoe", {"router_states": "final"}),
    Run("from the last token on", "memoe", {"tokens": "last"}),
    Run("plain cross entropy", "memoe", {"plain": True, "scope_gate": False}),
    Run("published router", "memoe", {"router": "published"}),
    Run("published balance", "memoe", {"balance_form": "published"}),
    Run("soft division", "memoe", {"division_sizes": "soft"}),
    Run("top-1 by probability", "memoe", {"merge": "weighted"}),
    Run("top-2", "memoe", {"merge": "weighted", "top_k": 2}),
    Run("top-3", "memoe", {"merge": "weighted", "top_k": 3}),
    Run("soft merging", "memoe", {"merge": "soft"}),
    Run("as published", "memoe", load_recipe("as-published").method_options("memoe")),
)


def build_and_measure(base: Base, facts: Sequence[Fact], run: Run, options: MethodOptions) -> dict[str, Any]:
    """The figures of one run, as plain data."""
    started = time.process_time()
    patch = get_method(run.method).build(base, facts, options)
    seconds = time.process_time() - started
    setting = Setting(batch_size=256)
    others = OtherRelations.of(base, facts, setting)
    report = evaluate(base, patch, routing=False, free=False, setting=setting)
    exact = report.patched.exact
    scores = [exact.efficacy.value, exact.generalization.value, report.locality.value]
    return {
        "facts": len(facts),
        "options": options.model_dump(mode="json", exclude={"corpus"}),
        **dict(zip(COLUMNS, scores, strict=False)),
        "average": sum(score or 0.0 for score in scores) / 3,
        **others_of(base, patch, others, setting),
        "specificity": report.patched.scores.specificity.value,
        "seconds": seconds,
        "parameters": added_parameters(patch),
        "tokens_per_second": speed(base, facts, patch),
        "tokens_per_second_base": speed(base, facts, None),
    }


def others_of(
    base: Base, patch: Patch, others: OtherRelations | None, setting: Setting
) -> dict[str, float | None]:
    """What the patch does to other relations of edited subjects."""
    if others is None:
        return dict.fromkeys(SIDE_EFFECTS)
    with apply(base, patch):
        return dict(
            zip(SIDE_EFFECTS, (others.kept(base, setting), others.followed(base, setting)), strict=True)
        )


def added_parameters(patch: Patch) -> int:
    """How many parameters the patch adds to a model if it is not merged."""
    if patch.kind == "bypass":
        return sum(tensor.numel() for name, tensor in patch.bypass.items() if ".facts." not in name)
    return sum(delta.left.numel() + delta.rows.value.numel() for delta in patch.layers.values())


@torch.no_grad()
def speed(base: Base, facts: Sequence[Fact], patch: Patch | None) -> float:
    """Tokens a second of `generate()`, the better of two runs; deltas are merged."""
    texts = [facts[i % len(facts)].text for i in range(PROMPTS)]
    encoded = base.tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
    inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    lengths = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS}
    best = float("inf")
    with nullcontext() if patch is None else apply(base, patch):
        for _ in range(2):
            started = time.process_time()
            base.model.generate(**inputs, **lengths, do_sample=False)
            best = min(best, time.process_time() - started)
    return PROMPTS * TOKENS / best


def table_of(records: Sequence[Mapping[str, Any]]) -> Table:
    """All runs, one row each."""
    columns = (*COLUMNS, *SIDE_EFFECTS, "seconds", "added parameters", "tokens/s", "of the base")
    table = Table("run", "facts", *columns, title="MEMoE")
    for record in records:
        found = [record.get(column) for column in (*COLUMNS, *SIDE_EFFECTS)]
        scores = ["-" if score is None else f"{score:.1f}" for score in found]
        costs = [f"{record['seconds']:.0f}", f"{record['parameters']:,}"]
        speeds = [f"{record[name]:.0f}" for name in ("tokens_per_second", "tokens_per_second_base")]
        table.add_row(record["run"], str(record["facts"]), *scores, *costs, *speeds)
    return table


main = benchmark_command(__doc__, RUNS, build_and_measure, table_of, edits="50.jsonl", limit=30)


if __name__ == "__main__":
    main()

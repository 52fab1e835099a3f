"""Passes that hold texts of about one length, compared with those that take texts as they come.

    python -m recipes.benchmarks.passes --model DIR --edits counterfact.jsonl --layer 3 --json
    python -m recipes.benchmarks.passes --model DIR --edits counterfact.jsonl --layer 3 --method memoe --json

Once in the search for target values, and once in the training of MEMoE. Both ways take the same steps for the
same facts with the default options, so that only padding differs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import click

from moe_patch.base.model import Base
from moe_patch.base.opening import open_base
from moe_patch.data.fact_file import read_facts
from moe_patch.data.facts import Fact
from moe_patch.methods.memoe import trunk
from moe_patch.methods.memoe.method import MEMoE
from moe_patch.methods.memoe.options import MEMoEOptions
from moe_patch.targets import search
from moe_patch.targets.groups import context_prefixes, facts_together, passes_of, tail_tokens
from moe_patch.targets.options import TargetOptions

from . import Figures, best_time, print_figures

FACTS = Path(__file__).parents[1] / "facts" / "50.jsonl"


def compare_search(base: Base, facts: Sequence[Fact], layer: int, steps: int) -> Figures:
    """Seconds of both searches, their ratio, and the tokens from the edited one on that a step computes."""
    options = TargetOptions(steps=steps, margin=None, patience=None)
    prefixes = context_prefixes(base, options)
    groups = facts_together(facts, options.fact_token)
    tails = [tail_tokens(base, [fact], options) for fact in facts]
    rows = len(prefixes) * len(options.shares)
    divided = passes_of(base, facts, options, prefixes=len(prefixes))
    parts = [[tails[number] for group in some for number in group] for some in divided]

    def seconds() -> float:
        return best_time(lambda: search.find_targets(base, facts, layer, options, prefixes=prefixes))[0]

    search.find_targets(base, facts[:2], layer, options, prefixes=prefixes)  # pays for allocations
    by_length = seconds()
    with patch.object(search, "passes_of", lambda *_, **__: [groups]):
        as_they_come = seconds()
    return {
        "facts": len(facts),
        "steps": steps,
        "passes": len(divided),
        "tokens": rows * sum(tails),
        "tokens_by_length": rows * sum(len(part) * max(part) for part in parts),
        "tokens_as_they_come": rows * len(facts) * max(tails),
        "seconds_by_length": by_length,
        "seconds_as_they_come": as_they_come,
        "ratio": as_they_come / by_length,
    }


def compare_training(base: Base, facts: Sequence[Fact], layer: int, steps: int) -> Figures:
    """Seconds of the steps of MEMoE's training both ways, and their ratio."""
    options = MEMoEOptions(layer=layer, steps=steps + 1)

    def seconds() -> float:
        ends: list[float] = []

        def note(stage: str, done: int, total: int) -> None:
            if stage == "training":
                ends.append(time.perf_counter())

        MEMoE().build(base, facts, options, note)
        return ends[-1] - ends[0]  # before its first step's end, it also measures how frequent the facts are

    by_length = seconds()
    with patch.object(trunk, "divide", lambda tokens, *_: [list(range(len(tokens)))]):
        as_they_come = seconds()
    return {
        "facts": len(facts),
        "steps": steps,
        "seconds_by_length": by_length,
        "seconds_as_they_come": as_they_come,
        "ratio": as_they_come / by_length,
    }


@click.command(help=__doc__)
@click.option("--model", help="Name or folder; the demo model unless given.")
@click.option("--edits", type=click.Path(exists=True, path_type=Path), default=FACTS)
@click.option("--facts", "count", default=50, show_default=True)
@click.option("--layer", default=1, show_default=True)
@click.option("--steps", default=3, show_default=True)
@click.option("--method", type=click.Choice(["search", "memoe"]), default="search", show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(
    model: str | None, edits: Path, count: int, layer: int, steps: int, method: str, as_json: bool
) -> None:
    """Compare and report."""
    facts = read_facts(edits, skip_invalid=True).facts[:count]
    compare = compare_training if method == "memoe" else compare_search
    figures = compare(open_base(model), facts, layer, steps)
    print_figures("passes by length against passes as texts come", figures, as_json)


if __name__ == "__main__":
    main()

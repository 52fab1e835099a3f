"""A search whose passes hold facts of about one length, compared with one that takes facts as they come.

    python -m recipes.benchmarks.passes --model DIR --edits counterfact.jsonl --layer 3 --json

Both take the same steps for the same facts with the default options, so that only padding differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import click

from moe_patch.base.model import Base
from moe_patch.base.opening import open_base
from moe_patch.data.fact_file import read_facts
from moe_patch.data.facts import Fact
from moe_patch.targets import search
from moe_patch.targets.groups import context_prefixes, facts_together, passes_of, tail_tokens
from moe_patch.targets.options import TargetOptions

from . import Figures, best_time, print_figures

FACTS = Path(__file__).parents[1] / "facts" / "50.jsonl"


def compare_passes(base: Base, facts: Sequence[Fact], layer: int, steps: int) -> Figures:
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


@click.command(help=__doc__)
@click.option("--model", help="Name or folder; the demo model unless given.")
@click.option("--edits", type=click.Path(exists=True, path_type=Path), default=FACTS)
@click.option("--facts", "count", default=50, show_default=True)
@click.option("--layer", default=1, show_default=True)
@click.option("--steps", default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(model: str | None, edits: Path, count: int, layer: int, steps: int, as_json: bool) -> None:
    """Compare and report."""
    facts = read_facts(edits, skip_invalid=True).facts[:count]
    figures = compare_passes(open_base(model), facts, layer, steps)
    print_figures("a search by length against one as facts come", figures, as_json)


if __name__ == "__main__":
    main()

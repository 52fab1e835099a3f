"""Many small patches on the demo model: added, solved together, and compared with one build of all facts.

    python -m recipes.benchmarks.stacking --json

The facts are divided into patches that are built one by one on the bare base. Their stack is combined by
`add` and by `solve`, without the model. For comparison, all facts are also built at once. Then facts are
dropped from one of the patches, and each layer's delta is compared with that of a patch built without these
facts. The lowest edited layer is the same up to rounding. In the layers above, keys and residuals were
measured with the dropped facts, and the difference shows what remains of them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import click

from moe_patch.base.model import Base
from moe_patch.base.opening import open_base
from moe_patch.data.fact_file import read_facts
from moe_patch.data.facts import Fact
from moe_patch.evaluation import Setting, evaluate
from moe_patch.methods import Method, get_method
from moe_patch.methods.base import MethodOptions
from moe_patch.methods.recipes import recipe_for
from moe_patch.patch import Patch
from moe_patch.stack import Stacked, combine_patches, drop_facts
from moe_patch.stack.compare import compare_patches
from moe_patch.stack.conflicts import find_disturbances

from . import Figures, print_figures

FACTS = Path(__file__).parents[1] / "facts" / "1000.jsonl"


class StackingBench:
    """One method with one recipe on one base."""

    def __init__(self, base: Base, name: str) -> None:
        found = recipe_for(base)
        self.base = base
        self.method: Method[MethodOptions] = get_method(name)
        self.options = self.method.options(**(found.method_options(name) if found else {}))

    def build(self, facts: Sequence[Fact], stage: str) -> Patch:
        click.echo(f"{stage}: {len(facts)} facts", err=True)
        return self.method.build(self.base, facts, self.options)

    def scores(self, patch: Patch, facts: Sequence[Fact], name: str) -> Figures:
        """The patch's scores on `facts`, in percent."""
        setting = Setting(batch_size=512)
        after = evaluate(self.base, patch, facts, routing=False, free=False, setting=setting).to_json()
        scores: Figures = {
            f"{name}_{score}": after[score]["value"]
            for score in ("efficacy", "generalization", "specificity")
        }
        return scores | {f"{name}_exact_efficacy": after["exact"]["efficacy"]["value"]}


def compare_combinations(bench: StackingBench, facts: Sequence[Fact], patches: int, asked: int) -> Figures:
    """Scores and seconds of the three ways, and the worst pair of patches."""
    size = -(-len(facts) // patches)
    parts = [
        bench.build(facts[start : start + size], f"patch {1 + start // size} of {patches}")
        for start in range(0, len(facts), size)
    ]
    stacked = [Stacked(f"patch-{number}", part, number) for number, part in enumerate(parts, start=1)]
    pairs = find_disturbances(stacked)
    figures: Figures = {
        "patches": len(parts),
        "facts": len(facts),
        "pair_worst_share": pairs[0].worst,
        "pair_median_share": sorted(pair.median for pair in pairs)[len(pairs) // 2],
    }
    some = facts[:: max(1, len(facts) // asked)]
    for how in ("add", "solve"):
        began = time.perf_counter()
        patch = combine_patches(stacked, how).patch
        figures[f"{how}_seconds"] = time.perf_counter() - began
        figures |= bench.scores(patch, some, how)
    began = time.perf_counter()
    together = bench.build(facts, "all at once")
    figures["together_seconds"] = time.perf_counter() - began
    return figures | bench.scores(together, some, "together") | removal(bench, parts[0])


def removal(bench: StackingBench, patch: Patch) -> Figures:
    """Drop a tenth of a patch's facts and compare with a build without them: relative distance by layer."""
    gone = {fact.id for fact in patch.facts[::10]}
    kept = [fact for fact in patch.facts if fact.id not in gone]
    anew, fewer = bench.build(kept, f"without {len(gone)} facts"), drop_facts(patch, gone)
    figures: Figures = {
        f"dropped_apart_layer_{one.layer}": one.apart / one.first
        for one in compare_patches(anew, fewer).layers
    }
    return figures | bench.scores(fewer, kept, "dropped") | bench.scores(anew, kept, "anew")


@click.command(help=__doc__)
@click.option("--edits", type=click.Path(exists=True, path_type=Path), default=FACTS, show_default=True)
@click.option("--facts", "count", default=1000, show_default=True, help="How many of them, from the first.")
@click.option("--patches", default=20, show_default=True)
@click.option("--asked", default=1000, show_default=True, help="Ask about so many of them, evenly spaced.")
@click.option("--method", default="moeedit", show_default=True)
@click.option("--model", help="Name or folder of the base.  [default: atlas, the demo model]")
@click.option("--json", "as_json", is_flag=True)
def main(
    edits: Path, count: int, patches: int, asked: int, method: str, model: str | None, as_json: bool
) -> None:
    """Build, combine, measure and report."""
    bench = StackingBench(open_base(model), method)
    facts = read_facts(edits)[:count]
    print_figures("stacks of patches", compare_combinations(bench, facts, patches, asked), as_json)


if __name__ == "__main__":
    main()

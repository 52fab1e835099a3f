"""A thousand facts in sequential batches: scores and routing along the edits, with and without protection.

    python -m recipes.benchmarks.sequential --json curve.jsonl --plot curve.png

Four builds: keys projected or not, earlier batches protected or not. After some of the batches, the model is
asked about the facts edited so far, or about --asked of them, evenly spaced. In the end most subjects of the
demo model's world are edited, and a neighbour that is edited itself is hardly preserved. `untouched` figures
are therefore for neighbourhood prompts about subjects that no fact so far is about.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from moe_patch.base.model import Base
from moe_patch.base.opening import open_base
from moe_patch.bench.along import FIGURES as SCORES
from moe_patch.bench.along import Along
from moe_patch.data.fact_file import FactFile, read_facts
from moe_patch.evaluation import Setting
from moe_patch.evaluation.rules import scoring_of
from moe_patch.methods import get_method
from moe_patch.methods.recipes import recipe_for

FACTS = Path(__file__).parents[1] / "facts" / "1000.jsonl"
SETTING = Setting(batch_size=512)


def run_build(
    base: Base, facts: FactFile, method: str, changes: dict[str, Any], counts: Sequence[int], asked: int
) -> tuple[float, list[dict[str, float | None]]]:
    """Build with the recipe's options and some changes: the seconds, measuring included, and the curve."""
    recipe = recipe_for(base)
    chosen = get_method(method)
    options = chosen.options(**{**(recipe.method_options(method) if recipe else {}), **changes})
    along = Along(base, facts, at=counts, asked=asked, setting=SETTING, lowest=min(options.layers))
    started = time.monotonic()
    chosen.build(base, facts, options, along)
    return time.monotonic() - started, along.curve


def plot_scores(results: list[dict[str, Any]], out: Path) -> None:
    """One panel a score, one line a build."""
    import matplotlib.pyplot as plt  # noqa: PLC0415  (the bench extra)

    figure, panels = plt.subplots(1, len(SCORES), figsize=(4 * len(SCORES), 3.5), sharey=True)
    for panel, score in zip(panels, SCORES, strict=True):
        for result in results:
            points = result["curve"]
            panel.plot([p["facts"] for p in points], [p[score] for p in points], label=result["build"])
        panel.set(title=score, xlabel="facts edited")
    panels[0].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(out, dpi=120)


@click.command(help=__doc__)
@click.option("--method", default="moeedit", show_default=True)
@click.option("--edits", type=click.Path(exists=True, path_type=Path), default=FACTS)
@click.option("--batch-size", default=50, show_default=True)
@click.option("--at", default="50,200,400,600,800,1000", show_default=True, help="Counts at which to ask.")
@click.option("--asked", default=200, show_default=True, help="Facts asked about at each of them.")
@click.option("--json", "lines", type=click.Path(path_type=Path), help="Append one JSON line per build.")
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="Draw the curves to this file.")
def main(
    method: str, edits: Path, batch_size: int, at: str, asked: int, lines: Path | None, picture: Path | None
) -> None:
    """Run the four builds and report."""
    base, facts = open_base(), read_facts(edits)
    counts = [int(count) for count in at.split(",") if int(count) <= len(facts)]
    results: list[dict[str, Any]] = []
    table = Table("build", *(f"{score} at {counts[-1]}" for score in SCORES), "seconds")
    for projection in (True, False):
        for protect in (True, False):
            name = f"{'' if projection else 'un'}projected, {'' if protect else 'un'}protected"
            click.echo(name, err=True)
            changes = {"batch_size": batch_size, "projection": projection, "protect_earlier": protect}
            seconds, curve = run_build(base, facts, method, changes, counts, asked)
            results.append({"build": name, "seconds": round(seconds, 1), "curve": curve})
            table.add_row(name, *(f"{curve[-1][score]:.1f}" for score in SCORES), f"{seconds:.0f}")
            if lines:
                with lines.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(results[-1]) + "\n")
    table.caption = scoring_of(facts, facts.schema).describe()
    Console().print(table)
    if picture:
        plot_scores(results, picture)


if __name__ == "__main__":
    main()

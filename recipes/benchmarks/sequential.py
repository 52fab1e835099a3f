"""A thousand facts in sequential batches: scores and routing along the edits, with and without protection.

    python -m recipes.benchmarks.sequential --json curve.jsonl --plot curve.png

Four builds: keys projected or not, earlier batches protected or not. After some of the batches, the model is
asked about the facts edited so far, or about --asked of them, evenly spaced. In the end most subjects of the
demo model's world are edited, and a neighbour that is edited itself is hardly preserved. `untouched` figures
are therefore for neighbourhood prompts about subjects that no fact so far is about.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from moe_patch.base.model import Base
from moe_patch.base.opening import open_base
from moe_patch.data.fact_file import FactFile, read_facts
from moe_patch.data.facts import Fact
from moe_patch.data.schemas import FactSchema
from moe_patch.evaluation import Questions, Scores, Setting, compare_routing, measure_scores, record_routing
from moe_patch.evaluation.metrics import own_answers
from moe_patch.evaluation.routing import Routing
from moe_patch.evaluation.rules import scoring_of
from moe_patch.evaluation.scoring import Encoded
from moe_patch.methods import get_method
from moe_patch.methods.recipes import recipe_for

FACTS = Path(__file__).parents[1] / "facts" / "1000.jsonl"
SETTING = Setting(batch_size=512)
SCORES = (
    "efficacy",
    "generalization",
    "specificity",
    "untouched specificity",
    "routing",
    "untouched routing",
)


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What the model is asked, with the bare base's answers on neighborhood prompts and its routing there."""

    questions: Questions
    own: list[Encoded]
    routing: Routing

    @classmethod
    def of(cls, base: Base, facts: Sequence[Fact], schema: FactSchema) -> Asked:
        """Ask a base without deltas."""
        questions = Questions.about(facts, schema=schema)
        return cls(questions, own_answers(base, questions.neighbours, SETTING, ""), _routing(base, questions))

    def figures(self, base: Base, lowest: int) -> tuple[Scores, float | None]:
        """The scores, and the similarity of the routing in percent."""
        scores = measure_scores(base, self.questions, SETTING, stage="", own=self.own).scores
        return scores, compare_routing(self.routing, _routing(base, self.questions), lowest).similarity


def _routing(base: Base, questions: Questions) -> Routing:
    return record_routing(base, [question.prompt for question in questions.neighbours])


class Watcher:
    """Measures the model during a build, while its deltas are on, after some numbers of edited facts."""

    def __init__(self, base: Base, facts: FactFile, at: Sequence[int], asked: int) -> None:
        self._base = base
        self.lowest = min(base.layers)  # edited layer
        some = {count: _evenly(facts[:count], asked) for count in at}
        self._asked = {
            count: [
                Asked.of(base, asking, facts.schema)
                for asking in (some[count], _untouched(some[count], facts[:count]))
            ]
            for count in at
        }
        self.curve: list[dict[str, float | None]] = []

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Called as the methods' progress function."""
        if stage != "facts edited" or done not in self._asked:
            return
        (scores, routing), (others, elsewhere) = (
            asked.figures(self._base, self.lowest) for asked in self._asked[done]
        )
        values = [scores.efficacy, scores.generalization, scores.specificity, others.specificity]
        figures: list[float | None] = [*(value.value for value in values), routing, elsewhere]
        self.curve.append({"facts": done, **dict(zip(SCORES, figures, strict=True))})
        click.echo(json.dumps(self.curve[-1]), err=True)


def _untouched(asked: Sequence[Fact], edited: Sequence[Fact]) -> list[Fact]:
    """The facts to ask about, with only those neighbours that do not mention an edited subject."""
    subjects = re.compile("|".join(rf"(?<!\w){re.escape(fact.subject)}(?!\w)" for fact in edited))
    return [_with_neighbours(fact, lambda text: not subjects.search(text)) for fact in asked]


def _with_neighbours(fact: Fact, wanted: Callable[[str], object]) -> Fact:
    """The fact with some of its neighborhood prompts, and their answers if they have any."""
    kept = [number for number, text in enumerate(fact.neighborhood) if wanted(text)]
    return replace(
        fact,
        neighborhood=tuple(fact.neighborhood[number] for number in kept),
        neighborhood_answers=tuple(
            fact.neighborhood_answers[number] for number in kept if fact.neighborhood_answers
        ),
    )


def _evenly(facts: Sequence[Fact], count: int) -> list[Fact]:
    return [facts[i * len(facts) // count] for i in range(count)] if len(facts) > count else list(facts)


def run_build(
    base: Base, facts: Sequence[Fact], method: str, changes: dict[str, Any], watcher: Watcher
) -> float:
    """Build with the recipe's options and some changes; returns the seconds of building and measuring."""
    recipe = recipe_for(base)
    chosen = get_method(method)
    options = chosen.options(**{**(recipe.method_options(method) if recipe else {}), **changes})
    watcher.lowest = min(options.layers)
    started = time.monotonic()
    chosen.build(base, facts, options, watcher)
    return time.monotonic() - started


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
            watcher = Watcher(base, facts, counts, asked)
            changes = {"batch_size": batch_size, "projection": projection, "protect_earlier": protect}
            seconds = run_build(base, facts, method, changes, watcher)
            results.append({"build": name, "seconds": round(seconds, 1), "curve": watcher.curve})
            table.add_row(name, *(f"{watcher.curve[-1][score]:.1f}" for score in SCORES), f"{seconds:.0f}")
            if lines:
                with lines.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(results[-1]) + "\n")
    table.caption = scoring_of(facts, facts.schema).describe()
    Console().print(table)
    if picture:
        plot_scores(results, picture)


if __name__ == "__main__":
    main()

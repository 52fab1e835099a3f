"""The untouched command against the best options that a long search finds, on several models.

    python -m recipes.families --out models
    python -m recipes.benchmarks.first_try --on atlas --on models/gpt-oss --on models/deepseek

Each model gets builds of the same facts, and no recipe that ships counts, so atlas is a model like any other.
`untouched` is given the model and the facts and nothing else. `searched` has the best of --candidates random
options, judged by the scores of these very facts, and may protect text that the model's makers have: a bound
on what tuning could reach. `base` is the model as it is.

Perplexity is that of text of the model's world that no build sees and that names no edited subject. Seconds
are of the processor, since a machine may have other work. What a build needs of preserved text and target
values is computed anew.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from moe_patch.base.model import Base
from moe_patch.base.opening import open_base
from moe_patch.building import BuildRequest, open_job
from moe_patch.data.fact_file import read_facts
from moe_patch.errors import MoePatchError
from moe_patch.evaluation import Scores
from moe_patch.io.cache import fresh_cache
from moe_patch.methods import get_method
from moe_patch.methods.overrides import merged_options
from moe_patch.patch import Patch
from moe_patch.tuning.choice import NO_RECIPE

from ._oracle import Trial, random_options, successive_halving
from ._subjects import ATLAS, Subject, drift_with, scores_now, scores_with, subject_at

METHOD = "moeedit"
SCORES = ("efficacy", "generalization", "specificity", "utility")

Record = dict[str, Any]


def record_of(scores: Scores, **others: Any) -> Record:
    """The scores in percent and other figures."""
    return {score: getattr(scores, score).value for score in SCORES} | others


def figures(base: Base, subject: Subject, patch: Patch) -> Record:
    """The scores of a patch on its own facts, and what it does to text that no build sees."""
    drift = drift_with(base, subject, patch)
    return record_of(scores_with(base, patch), perplexity=drift.perplexity_after, kl=drift.divergence)


def untouched(subject: Subject) -> list[Record]:
    """The model as it is, and the build of a user who names it and the facts."""
    with fresh_cache():
        job = open_job(BuildRequest(subject.facts, subject.model, METHOD, recipe=NO_RECIPE))
        started = time.process_time()
        choice = job.choose()
        patch = job.run(choice).patch
        seconds = time.process_time() - started
    before = drift_with(job.base, subject, patch).perplexity_before
    scores = scores_now(job.base, patch.facts, patch.schema)
    return [
        {"build": "base", **record_of(scores, perplexity=before, kl=0.0), "seconds": 0.0},
        {
            "build": "untouched",
            **figures(job.base, subject, patch),
            "seconds": seconds,
            "options": choice.record(),
        },
    ]


def searched(subject: Subject, candidates: int, seed: int) -> list[Record]:
    """The best of a search that sees the facts and their scores."""
    base, facts = open_base(subject.model), read_facts(subject.facts)
    method, rng = get_method(METHOD), random.Random(seed)
    finals: dict[str, Record] = {}

    def measure(options: dict[str, Any], count: int) -> Trial | None:
        try:
            patch = method.build(base, facts[:count], merged_options(method.Options, {}, options, ""))
        except MoePatchError as error:  # options that this model cannot have are no candidates
            click.echo(f"{subject.name}: {options}: {error}", err=True)
            return None
        if count < len(facts):
            utility, perplexity = scores_with(base, patch).utility.value, 0.0
        else:
            finals[json.dumps(options)] = final = figures(base, subject, patch)
            utility, perplexity = final["utility"], final["perplexity"]
        assert utility is not None
        click.echo(f"{subject.name}: {count} facts, utility {utility:.1f}: {options}", err=True)
        return Trial(options, utility, perplexity)

    text = {"corpus": str(subject.corpus)} if subject.corpus else {}
    drawn = [random_options(base, rng) | text for _ in range(candidates)]
    with fresh_cache():
        started = time.process_time()
        best = successive_halving(drawn, measure, len(facts))[0].options
        seconds = time.process_time() - started
    return [{"build": "searched", **finals[json.dumps(best)], "seconds": seconds, "options": best}]


def table_of(records: list[Record]) -> Table:
    """One row a build."""
    table = Table("model", "build", *SCORES, "perplexity", "KL", "seconds", title="First tries")
    for record in records:
        cells = [f"{record[score]:.1f}" for score in SCORES]
        cells += [f"{record['perplexity']:.2f}", f"{record['kl']:.3f}", f"{record['seconds']:.0f}"]
        table.add_row(record["model"], record["build"], *cells)
    return table


@click.command(help=__doc__)
@click.option(
    "--on",
    "places",
    multiple=True,
    default=(ATLAS,),
    help="atlas (the default), a folder of recipes.families, or MODEL,FACTS,TEXT.",
)
@click.option("--candidates", default=48, show_default=True, help="Of the long search.")
@click.option("--seed", default=0, show_default=True)
@click.option("--only", type=click.Choice(("untouched", "searched")), multiple=True)
@click.option("--json", "lines", type=click.Path(path_type=Path), help="Append one JSON line per build.")
def main(
    places: tuple[str, ...], candidates: int, seed: int, only: tuple[str, ...], lines: Path | None
) -> None:
    """Run the builds and report."""
    builds: dict[str, Callable[[Subject], list[Record]]] = {
        "untouched": untouched,
        "searched": lambda subject: searched(subject, candidates, seed),
    }
    records: list[Record] = []
    for subject in map(subject_at, places):
        for name in only or builds:
            found = [{"model": subject.name, **record} for record in builds[name](subject)]
            records += found
            if lines:
                with lines.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(record) + "\n" for record in found)
    Console(width=160).print(table_of(records))


if __name__ == "__main__":
    main()

"""The untouched command against tuned options and the best that a long search finds, on several models.

    python -m recipes.families --out models
    python -m recipes.benchmarks.first_try --on atlas --on models/gpt-oss --on models/deepseek

Each model gets three builds of the same facts, and no recipe that ships counts, so atlas is a model like any
other. `untouched` is given the model and the facts and nothing else. `tuned` has the recipe that `moe-patch
tune` finds in --minutes of its own knowledge. `searched` has the best of --candidates random options, judged
by the scores of these very facts, and may protect text that the model's makers have: a bound on what tuning
could reach. Perplexity is that of text of the model's world that no build sees and that names no edited
subject. Seconds are of the processor, since a machine may have other work; what a build needs of preserved
text and target values is computed anew.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

from moe_patch.base.model import Base
from moe_patch.base.opening import open_base
from moe_patch.building import BuildRequest, open_job
from moe_patch.data.fact_file import read_facts
from moe_patch.errors import MoePatchError
from moe_patch.evaluation import Setting, evaluate
from moe_patch.evaluation.drift import measure_drift
from moe_patch.io.cache import fresh_cache
from moe_patch.methods import get_method
from moe_patch.methods.overrides import merged_options
from moe_patch.patch import Patch
from moe_patch.tuning.choice import NO_RECIPE

from ._oracle import Trial, random_options, successive_halving
from ._subjects import ATLAS, Subject, subject_at

METHOD = "moeedit"
SCORES = ("efficacy", "generalization", "specificity", "utility")
SETTING = Setting(batch_size=512)

Record = dict[str, Any]


def figures(base: Base, subject: Subject, patch: Patch) -> Record:
    """The scores of a patch on its own facts, and the perplexities of unseen text."""
    scores = evaluate(base, patch, setting=SETTING, routing=False, allow_large=True).patched.scores
    sequences = list(subject.text.sequences(base.reader, max_tokens=None, length=256))
    drift = measure_drift(base, patch, sequences)
    return {score: getattr(scores, score).value for score in SCORES} | {
        "perplexity before": drift.perplexity_before,
        "perplexity after": drift.perplexity_after,
    }


def untouched(subject: Subject) -> Record:
    """The build of a user who names a model and facts."""
    request = BuildRequest(subject.facts, subject.model, METHOD, recipe=NO_RECIPE, dtype=torch.float32)
    with fresh_cache():
        job = open_job(request)
        started = time.process_time()
        choice = job.choose()
        built = job.run(choice)
        seconds = time.process_time() - started
        return {"seconds": seconds, "options": choice.record(), **figures(job.base, subject, built.patch)}


def searched(subject: Subject, candidates: int, seed: int) -> Record:
    """The best of a search that sees the facts and their scores."""
    base, facts = open_base(subject.model, dtype=torch.float32), read_facts(subject.facts)
    method, rng = get_method(METHOD), random.Random(seed)
    measured: dict[str, Record] = {}

    def measure(options: dict[str, Any], count: int) -> Trial | None:
        try:
            patch = method.build(base, facts[:count], merged_options(method.Options, {}, options, ""))
        except MoePatchError as error:  # options that this model cannot have are no candidates
            click.echo(f"{subject.name}: {options}: {error}", err=True)
            return None
        found = figures(base, subject, patch)
        measured[json.dumps(options)] = found
        click.echo(f"{subject.name}: {count} facts, utility {found['utility']:.1f}: {options}", err=True)
        return Trial(options, found["utility"], found["perplexity after"])

    text = {"corpus": str(subject.corpus)} if subject.corpus else {}
    drawn = [random_options(base, rng) | text for _ in range(candidates)]
    with fresh_cache():
        started = time.process_time()
        best = successive_halving(drawn, measure, len(facts))[0].options
        seconds = time.process_time() - started
    best_figures = measured[json.dumps(best)]
    return {"seconds": seconds, "options": best, **best_figures}


def table_of(records: list[Record]) -> Table:
    """One row a build."""
    table = Table("model", "build", *SCORES, "perplexity", "with the patch", "seconds", title="First tries")
    for record in records:
        cells = [f"{record[score]:.1f}" for score in SCORES]
        cells += [f"{record[f'perplexity {when}']:.2f}" for when in ("before", "after")]
        table.add_row(record["model"], record["build"], *cells, f"{record['seconds']:.0f}")
    return table


@click.command(help=__doc__)
@click.option("--on", "places", multiple=True, default=(ATLAS,), help="atlas (the default), or a folder.")
@click.option("--candidates", default=48, show_default=True, help="Of the long search.")
@click.option("--seed", default=0, show_default=True)
@click.option("--only", type=click.Choice(("untouched", "searched")), multiple=True)
@click.option("--json", "lines", type=click.Path(path_type=Path), help="Append one JSON line per build.")
def main(
    places: tuple[str, ...], candidates: int, seed: int, only: tuple[str, ...], lines: Path | None
) -> None:
    """Run the builds and report."""
    builds: dict[str, Callable[[Subject], Record]] = {
        "untouched": untouched,
        "searched": lambda subject: searched(subject, candidates, seed),
    }
    records = []
    for subject in map(subject_at, places):
        for name, build in builds.items():
            if only and name not in only:
                continue
            records.append({"model": subject.name, "build": name, **build(subject)})
            if lines:
                with lines.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(records[-1]) + "\n")
    Console(width=160).print(table_of(records))


if __name__ == "__main__":
    main()

"""The untouched command against tuned options and the best that a long search finds, on several models.

    python -m recipes.families --out models
    python -m recipes.benchmarks.first_try --on atlas --on models/gpt-oss --on models/deepseek

Each model gets builds of the same facts, and no recipe that ships counts, so atlas is a model like any other.
`untouched` is given the model and the facts and nothing else. `tuned` has what `moe-patch tune` finds in
--minutes. `searched` has the best of --candidates random options, of the defaults at the best layers, and of
neighbours of the winner, judged by the scores of these very facts, and may protect text that the model's
makers have: a bound on what tuning could reach. `base` is the model as it is.

Perplexity is that of text of the model's world that no build sees and that names no edited subject, KL what a
patch changes there. Seconds, and the minutes of tuning, are of the processor, since a machine may have other
work. The builds of a model share a cache that is empty before the first: what the base writes itself is
written once, in the time of the build that first needs it.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from contextlib import nullcontext
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
from moe_patch.methods.preserved import preserve
from moe_patch.patch import Patch
from moe_patch.tuning.choice import NO_RECIPE, TUNED_RECIPE
from moe_patch.tuning.kept import keep_recipe
from moe_patch.tuning.tune import tune

from ._oracle import Trial, best_layers, random_options, refined, successive_halving
from ._subjects import ATLAS, Subject, drift_with, scores_now, scores_with, subject_at

METHOD = "moeedit"
BUILDS = ("base", "untouched", "tuned", "searched")
SCORES = ("efficacy", "generalization", "specificity", "utility")

Record = dict[str, Any]


def record_of(scores: Scores, **others: Any) -> Record:
    """The scores in percent and other figures."""
    return {score: getattr(scores, score).value for score in SCORES} | others


def figures(base: Base, subject: Subject, patch: Patch) -> Record:
    """The scores of a patch on its own facts, and what it does to text that no build sees."""
    drift = drift_with(base, subject, patch)
    return record_of(
        scores_with(base, patch),
        before=drift.perplexity_before,
        perplexity=drift.perplexity_after,
        kl=drift.divergence,
    )


def built(subject: Subject, base: Base, recipe: str) -> Record:
    """The build of a user who names a model and facts, with a recipe or none."""
    job = open_job(BuildRequest(subject.facts, base, METHOD, recipe=recipe))
    started = time.process_time()
    choice = job.choose()
    patch = job.run(choice).patch
    seconds = time.process_time() - started
    return figures(base, subject, patch) | {"seconds": seconds, "options": choice.to_json()}


def untouched(subject: Subject) -> Record:
    """Without a recipe, as for a model that nobody has looked at."""
    return built(subject, open_base(subject.model), NO_RECIPE) | {"search": 0.0}


def tuned(subject: Subject, minutes: float) -> Record:
    """With the recipe that tuning finds for the model."""
    base = open_base(subject.model)
    found = tune(base, get_method(METHOD), minutes=minutes, clock=time.process_time)
    keep_recipe(base, found.recipe)
    return built(subject, base, TUNED_RECIPE) | {"search": found.seconds, "finished": found.finished}


def as_it_is(subject: Subject) -> Record:
    """The model without a patch."""
    base, facts = open_base(subject.model), read_facts(subject.facts)
    return record_of(scores_now(base, facts, facts.schema))


def searched(subject: Subject, candidates: int, seed: int) -> Record:
    """The best of a search that sees the facts and their scores."""
    base, facts = open_base(subject.model), read_facts(subject.facts)
    method, rng = get_method(METHOD), random.Random(seed)
    finals: dict[str, Record] = {}

    def measure(options: dict[str, Any], count: int) -> Trial | None:
        began = time.process_time()
        try:
            patch = method.build(base, facts[:count], merged_options(method.Options, {}, options, ""))
        except MoePatchError as error:  # options that this model cannot have are no candidates
            click.echo(f"{subject.name}: {options}: {error}", err=True)
            return None
        took = time.process_time() - began
        if count < len(facts):
            utility, perplexity = scores_with(base, patch).utility.value, 0.0
        else:
            final = figures(base, subject, patch) | {"seconds": took, "options": options}
            finals[json.dumps(options)] = final
            utility, perplexity = final["utility"], final["perplexity"]
        assert utility is not None
        click.echo(f"{subject.name}: {count} facts, utility {utility:.1f}: {options}", err=True)
        return Trial(options, utility, perplexity)

    text = {"corpus": str(subject.corpus)} if subject.corpus else {}
    layers = list(base.layers)
    started = time.process_time()
    if subject.corpus:  # all layers are tried: one pass over the text fills the cache for every one of them
        options = method.Options(layers=layers)
        preserve(base, layers, [str(subject.corpus)], options.corpus_tokens, length=options.corpus_length)
    last = best_layers(layers, text, measure, len(facts))
    drawn = [random_options(layers, last, rng) | text for _ in range(candidates)]
    plain = [{"layers": [layer]} | text for layer in last]
    found = successive_halving([*plain, *drawn], measure, len(facts))[0]
    best = refined(found, measure, len(facts), rng, max(1, candidates // 3)).options
    seconds = time.process_time() - started
    return finals[json.dumps(best)] | {"search": seconds}


def table_of(records: list[Record]) -> Table:
    """One row a build."""
    columns = {"before": 2, "perplexity": 2, "kl": 3, "seconds": 0, "search": 0}  # their decimals
    titles = ("perplexity before", "after", "KL", "build s", "search s")
    table = Table("model", "build", *SCORES, *titles, title="First tries")
    for record in records:
        cells = [f"{record[score]:.1f}" for score in SCORES]
        cells += [f"{record[name]:.{n}f}" if name in record else "-" for name, n in columns.items()]
        table.add_row(record["model"], record["build"], *cells)
    return table


@click.command(help=__doc__)
@click.option(
    "--on",
    "places",
    multiple=True,
    default=(ATLAS,),
    help="atlas (the default), a folder of recipes.families, or MODEL,FACTS,TEXT[,CORPUS].",
)
@click.option("--minutes", default=5.0, show_default=True, help="Of tuning.")
@click.option("--candidates", default=24, show_default=True, help="Of the long search.")
@click.option("--seed", default=0, show_default=True, help="Of the long search.")
@click.option("--only", type=click.Choice(BUILDS), multiple=True)
@click.option("--go-on", is_flag=True, help="Take from the usual cache what an earlier run left.")
@click.option("--json", "lines", type=click.Path(path_type=Path), help="Append one JSON line per build.")
def main(
    places: tuple[str, ...],
    minutes: float,
    candidates: int,
    seed: int,
    only: tuple[str, ...],
    go_on: bool,
    lines: Path | None,
) -> None:
    """Run the builds and report."""
    builds: dict[str, Callable[[Subject], Record]] = {
        "base": as_it_is,
        "untouched": untouched,
        "tuned": lambda subject: tuned(subject, minutes),
        "searched": lambda subject: searched(subject, candidates, seed),
    }
    records: list[Record] = []
    for subject in map(subject_at, places):
        with nullcontext() if go_on else fresh_cache():
            for name in only or BUILDS:
                records.append({"model": subject.name, "build": name, **builds[name](subject)})
                if lines:
                    with lines.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(records[-1]) + "\n")
    Console(width=160).print(table_of(records))


if __name__ == "__main__":
    main()

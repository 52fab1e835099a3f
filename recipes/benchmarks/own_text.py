"""What is preserved: text that is given, text that the base writes itself, or nothing; one row each.

    python -m recipes.benchmarks.own_text --on atlas --on build/families/gpt-oss

A subject is the demo model, or a folder that `recipes.families` writes. All else is as `moe-patch build` has
it: the recipe of the demo model, and on others what is chosen by looking at the model. Drift is the
divergence, in thousandths of a nat a token, on text that no build sees. Seconds are those that writing the
text and collecting the moments take with an empty cache. Protected is the share of the experts' directions,
and room the median share of a fact's keys that is left.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

from moe_patch.base.model import Base
from moe_patch.base.opening import open_base
from moe_patch.data.fact_file import FactFile, read_facts
from moe_patch.io.cache import fresh_cache
from moe_patch.methods import get_method
from moe_patch.methods.delta import DeltaOptions
from moe_patch.methods.preserved import preserve
from moe_patch.tuning import choose

from ._subjects import Subject, drift_with, scores_with, subject_at

SCORES = ("efficacy", "generalization", "specificity", "utility")


def texts_of(subject: Subject) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each text by its name, with the options that have it preserved."""
    yield "nothing", {"projection": False}
    if subject.corpus is not None:
        yield "a given corpus", {"corpus": (str(subject.corpus),)}
    yield "own text", {"corpus": None}


def measured(subject: Subject, base: Base, facts: FactFile, given: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of one build."""
    method = get_method("moeedit")
    options = choose(base, facts, method, given=given).options
    assert isinstance(options, DeltaOptions)
    seconds = None
    if options.needs_text:
        started = time.process_time()
        with fresh_cache():
            preserve(base, options.layers, options.corpus, options.corpus_tokens, least=options.min_tokens)
        seconds = time.process_time() - started
    patch = method.build(base, facts, options)
    scores = scores_with(base, patch)
    protection: Any = patch.hyperparameters["protection"] or [{}]
    text: Any = patch.hyperparameters["preserved_text"] or {}
    return {
        "layers": list(options.layers),
        "tokens": text.get("tokens"),
        "seconds": seconds,
        "protected": protection[-1].get("protected"),
        "room": protection[-1].get("room_median"),
        **{name: getattr(scores, name).value for name in SCORES},
        "drift": drift_with(base, subject, patch).divergence,
    }


def table_of(records: Sequence[Mapping[str, Any]]) -> Table:
    """All builds, one row each, in percent."""

    def shown(value: float | None, form: str, factor: float = 1.0) -> str:
        return "" if value is None else format(factor * value, form)

    table = Table("model", "layers", "preserved", "tokens", "seconds", "protected", "room", *SCORES, "drift")
    for record in records:
        shares = (shown(record[name], ".1f", 100.0) for name in ("protected", "room"))
        table.add_row(
            record["model"],
            ", ".join(map(str, record["layers"])),
            record["preserved"],
            shown(record["tokens"], ",d", 1),
            shown(record["seconds"], ".0f"),
            *shares,
            *(f"{record[name]:.1f}" for name in SCORES),
            f"{1000 * record['drift']:.2f}",
        )
    return table


@click.command(help=__doc__)
@click.option("--on", "places", multiple=True, default=("atlas",), show_default=True)
@click.option("--json", "lines", type=click.Path(path_type=Path), help="Append one JSON line per build.")
def main(places: tuple[str, ...], lines: Path | None) -> None:
    """Run the builds and report."""
    records: list[dict[str, Any]] = []
    for subject in map(subject_at, places):
        base, facts = open_base(subject.model, dtype=torch.float32), read_facts(subject.facts)
        for name, given in texts_of(subject):
            found = measured(subject, base, facts, given)
            records.append({"model": subject.name, "preserved": name, **found})
            if lines:
                with lines.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(records[-1]) + "\n")
    Console(width=160).print(table_of(records))


if __name__ == "__main__":
    main()

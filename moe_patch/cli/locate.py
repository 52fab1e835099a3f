"""`moe-patch locate`: which layers and experts carry what a model knows."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_patch.cli.console import print_json, print_tables, say
from moe_patch.cli.method_options import parse_layers
from moe_patch.cli.options import (
    FILE,
    NEW_FILE,
    NumberRange,
    json_option,
    model_options,
    open_model,
    schema_option,
)
from moe_patch.cli.output import check_writable
from moe_patch.progress import progress_bars

if TYPE_CHECKING:
    from moe_patch.base.model import Base
    from moe_patch.data.facts import Fact
    from moe_patch.data.schemas import ZsreSchema
    from moe_patch.progress import Progress
    from moe_patch.tracing import LayerExperts, TraceReport
    from moe_patch.tracing.sites import Kind


@click.command(
    epilog="""\b
Examples:
  moe-patch locate
  moe-patch locate --edits facts.jsonl --model ./Qwen3-30B-A3B --plot effects.png
  moe-patch locate --facts 32 --samples 5 --attention --json
  moe-patch locate --edits facts.jsonl --layers 2-4 --coalitions

Without --edits the model is asked about facts that it knows, which it is made to write itself.
"""
)
@click.option("--edits", type=FILE, help="Facts, whose subjects the model is asked about.")
@schema_option
@click.option(
    "--facts",
    "count",
    type=click.IntRange(min=1, max=10_000),
    default=16,
    show_default=True,
    help="Trace at most this many facts; of a longer file, some that are spread evenly over it.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1, max=10_000),
    default=3,
    show_default=True,
    help="Drawings of noise for each fact.",
)
@click.option(
    "--noise",
    type=NumberRange(min=0, max=1e6),
    default=3.0,
    show_default=True,
    help="Size of the noise at the subject, in standard deviations of the subjects' embeddings.",
)
@click.option(
    "--layers", callback=parse_layers, help="Decoder layers to restore, as 2,3,4 or 2-4.  [default: all]"
)
@click.option(
    "--window",
    type=click.IntRange(min=1, max=10_000),
    default=1,
    show_default=True,
    help="How many layers, around each, are restored together.",
)
@click.option("--attention", is_flag=True, help="Restore what the layer's attention adds too.")
@click.option("--experts", is_flag=True, help="Restore single experts too.")
@click.option(
    "--coalitions",
    is_flag=True,
    help="Restore coalitions of experts too, at --layers or at the layer that carries most.",
)
@click.option("--plot", type=NEW_FILE, help="Draw the effects (.png, .svg, .pdf); needs matplotlib.")
@click.option("--chat/--no-chat", default=False, help="Format prompts with the tokenizer's chat template.")
@click.option(
    "--fact-token",
    type=click.Choice(["subject-last", "last"]),
    default="subject-last",
    show_default=True,
    help="The token whose states are restored.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0, max=2**32),
    default=0,
    show_default=True,
    help="Seed of all random numbers.",
)
@model_options
@json_option
def locate(
    edits: Path | None,
    schema: ZsreSchema | None,
    count: int,
    layers: list[int] | None,
    attention: bool,
    experts: bool,
    coalitions: bool,
    plot: Path | None,
    chat: bool,
    fact_token: Any,
    as_json: bool,
    samples: int,
    noise: float,
    window: int,
    seed: int,
    **model: Any,
) -> None:
    """Find the layers that carry what the model knows, by causal tracing.

    Noise at a fact's subject makes the model forget the answer. Then one layer's state at the subject's last
    token is restored, that of its feed-forward block or all of its output: what that brings back of the
    answer's probability is the indirect effect. The answer is always the model's own, since new ones are not
    known to it.
    """
    if plot is not None:
        check_writable(plot, "--plot")
    from moe_patch.building.edits import read_edits
    from moe_patch.cli.traces import trace_lines, trace_tables
    from moe_patch.data.prompts import PromptStyle
    from moe_patch.io.figure import new_figure
    from moe_patch.tracing import trace, trace_experts
    from moe_patch.tracing.plot import draw_trace

    if schema is not None and edits is None:
        raise click.UsageError("--schema says how to read --edits: give it a facts file.")
    if plot is not None:
        new_figure(plot, 1, 1)  # a mistake in it is found before the work
    facts = [] if edits is None else list(read_edits(edits, schema=schema))
    base = open_model(**model, allow_dense=True)
    kinds: tuple[Kind, ...] = ("moe", "stream", "attention") if attention else ("moe", "stream")
    options: dict[str, Any] = {
        "noise_samples": samples,
        "noise": noise,
        "seed": seed,
        "style": PromptStyle(chat, fact_token),
    }
    with progress_bars() as progress:
        asked = _asked(base, facts, count, seed, progress)
        report = trace(base, asked, kinds=kinds, layers=layers, window=window, progress=progress, **options)
        chosen = _chosen(report, base)
        found: tuple[LayerExperts, ...] = ()
        if (experts or coalitions) and base.layers:
            where = [layer for layer in layers or () if layer in base.layers]
            where = where or (list(chosen) if coalitions else sorted(base.layers))
            found = trace_experts(base, asked, where, coalitions=coalitions, progress=progress, **options)
    if plot is not None:
        draw_trace(report, plot, chosen=chosen)
    if as_json:
        print_json(report.to_json() | {"chosen": chosen, "experts": [asdict(each) for each in found]})
        return
    print_tables(*trace_tables(report, found))
    say("", *trace_lines(report, chosen))
    if plot is not None:
        say(f"Drawn: {plot}")


def _asked(base: Base, facts: list[Fact], count: int, seed: int, progress: Progress | None) -> list[Fact]:
    """The facts to trace: some of a file's, or known ones.

    Raises:
        FactError: the model knows none.
    """
    from moe_patch.data.spacing import spaced
    from moe_patch.elicit.known import known_facts
    from moe_patch.errors import FactError

    if facts:
        return spaced(facts, count)
    known = known_facts(base, count, seed=seed, progress=progress)
    if not known:
        raise FactError(f"{base.name} writes no sentence with a fact that it knows: give facts with --edits")
    return list(known)


def _chosen(report: TraceReport, base: Base) -> tuple[int, ...]:
    """The layers to edit; none if no layer with experts was traced."""
    from moe_patch.tracing import choose_layers

    return choose_layers(report, base) if report.ranking() else ()

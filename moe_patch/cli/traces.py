"""Tables and sentences of a trace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from moe_patch.cli.console import plain_table
from moe_patch.io.wording import counted
from moe_patch.patch.fingerprint import in_ranges

if TYPE_CHECKING:
    from rich.table import Table

    from moe_patch.tracing import Effect, LayerExperts, TraceReport

_BAR = 24  # characters of the longest bar
_SHOWN = 10  # experts of a layer
_NAMES = {"moe": "block", "stream": "output", "attention": "attention"}


def trace_tables(report: TraceReport, experts: Sequence[LayerExperts]) -> list[Table]:
    """The effects by layer, and those of experts by layer."""
    return [_layers(report), *map(_experts, experts), *([_coalitions(experts)] if _grown(experts) else [])]


def trace_lines(report: TraceReport, chosen: Sequence[int]) -> list[str]:
    """What the numbers are of, and where to edit."""
    known = sum(fact.known for fact in report.facts)
    probability = f"{report.clean.mean:.1%}, and {report.corrupted.mean:.1%} with noise at the subject"
    lines = [
        f"{counted(len(report.facts), 'fact')}, {known} of them with their true answer",
        f"The answer's probability is {probability}.",
    ]
    if chosen:
        lines.append(f"Edit at layer {in_ranges(chosen)}: --layers {','.join(map(str, chosen))}")
    return lines


def _layers(report: TraceReport) -> Table:
    kinds = [kind for kind in _NAMES if any(kind in each.effects for each in report.layers)]
    most = max((each.effects["moe"].mean for each in report.layers if "moe" in each.effects), default=0.0)
    numbers = ["layer", "experts", *(_NAMES[kind] for kind in kinds)]
    around = "one layer" if report.window == 1 else f"{report.window} layers around each"
    title = (
        f"Indirect effects: points of probability that restoring {around} brings back, with standard errors"
    )
    table = plain_table(title, [*numbers, ""], right=numbers)
    for each in report.layers:
        own = each.effects.get("moe")
        share = max(0.0, own.mean / most) if own is not None and most > 0 else 0.0
        cells = [_points(each.effects[kind]) if kind in each.effects else "" for kind in kinds]
        table.add_row(str(each.layer), str(each.experts or "dense"), *cells, "█" * round(_BAR * share))
    return table


def _experts(found: LayerExperts) -> Table:
    left = len(found.experts) - _SHOWN
    rest = f", {left} more with --json" if left > 0 else ""
    tried = any(each.share is not None for each in found.experts)
    columns = ["expert", "facts", "alone", *(["its share of all together"] if tried else [])]
    title = f"Experts of layer {found.layer}: all together bring back {_points(found.whole)}{rest}"
    table = plain_table(title, columns, right=columns[1:])
    for each in found.experts[:_SHOWN]:
        name = "others, taken out" if each.expert is None else str(each.expert)
        share = [] if each.share is None else [_points(each.share)]
        table.add_row(name, str(each.facts), _points(each.alone), *share)
    return table


def _coalitions(experts: Sequence[LayerExperts]) -> Table:
    from moe_patch.tracing.experts import MOST

    longest = max(len(found.grown) for found in experts)
    sizes = [str(size) for size in range(1, longest)]
    numbers = ["layer", *sizes, f"needed for {MOST:.0%}"]
    table = plain_table("Points that the best coalition of a size brings back", numbers, right=numbers)
    for found in experts:
        grown = [_points(effect) for effect in found.grown[1:]]
        needed = "" if found.needed is None else f"{found.needed.mean:.1f} ± {found.needed.error:.1f}"
        table.add_row(str(found.layer), *grown, *[""] * (longest - len(found.grown)), needed)
    return table


def _grown(experts: Sequence[LayerExperts]) -> bool:
    return any(found.grown for found in experts)


def _points(effect: Effect) -> str:
    return f"{100 * effect.mean:.1f} ± {100 * effect.error:.1f}"

"""Runs as tables of texts, for a terminal and a page alike, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moe_patch.bench.report.compare import Comparison, Pair
from moe_patch.bench.report.figures import SCORES, Figure, figures_of
from moe_patch.bench.report.runs import Group, RunSet, Section, setting_of
from moe_patch.evaluation.free.questions import KINDS

BASE = "the base itself"
"""The row of the unedited model."""

NONE = "-"
"""What stands for a figure that was not measured."""

_MIB = 2.0**20


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of texts; all columns but the first `texts` are numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: int = 1


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the table of a section."""

    title: str
    figure: str
    digits: int = 1
    scale: float = 1.0
    interval: bool = False


_SUMMARY = (
    *(_Column(name, name, interval=True) for name in SCORES),
    _Column("locality", "locality"),
    _Column("portability", "portability"),
    _Column("routing, edited", "routing.edited.similarity"),
    _Column("routing, preserved", "routing.preserved.similarity"),
    _Column("perplexity", "text.perplexity.after", 2),
    _Column("build s", "seconds.build"),
    _Column("host MiB", "memory.host_added", 0, 1 / _MIB),
    _Column("device MiB", "memory.device_peak", 0, 1 / _MIB),
    _Column("patch MB", "size.bytes", 2, 1e-6),
    _Column("experts", "size.experts", 0),
)
"""What a table shows, as far as some run has it."""


def score_table(section: Section) -> Grid:
    """The arms of a section, the base first: scores with intervals, or with deviations over seeds; costs."""
    shown = [column for column in _SUMMARY if any(column.figure in group.figures for group in section.groups)]
    rows = [_base_row(section.groups[0], shown)]
    rows += [
        (_arm(group), *(_cell(group.figures.get(c.figure), c) for c in shown)) for group in section.groups
    ]
    return Grid(section.title, ("", *(column.title for column in shown)), tuple(rows))


def _base_row(group: Group, shown: Sequence[_Column]) -> tuple[str, ...]:
    """What the base scores, by the first arm's run; figures of edits it has none."""
    of_base = {"text.perplexity.after": "text.perplexity.before"}
    cells = [group.figures.get(of_base.get(column.figure, f"base.{column.figure}")) for column in shown]
    return (BASE, *(_cell(figure, column) for figure, column in zip(cells, shown, strict=True)))


def _arm(group: Group) -> str:
    return f"{group.arm} (rival)" if group.first.rival else group.arm


def _cell(figure: Figure | None, column: _Column) -> str:
    if figure is None:
        return NONE

    def number(value: float) -> str:
        return f"{value * column.scale:.{column.digits}f}"

    if figure.deviation is not None:
        return f"{number(figure.value)} ± {number(figure.deviation)}"
    if column.interval and figure.low is not None and figure.high is not None:
        return f"{number(figure.value)} ({number(figure.low)} to {number(figure.high)})"
    return number(figure.value)


def summary_table(runs: RunSet) -> Grid:
    """All sections in one table, with the main scores."""
    columns = (*SCORES, "build s", "patch MB")
    chosen = [column for column in _SUMMARY if column.title in columns]
    plain = [_Column(column.title, column.figure, column.digits, column.scale) for column in chosen]
    rows = tuple(
        (_arm(group), section.title, *(_cell(group.figures.get(column.figure), column) for column in plain))
        for section in runs.sections
        for group in section.groups
    )
    return Grid(f"Runs ({len(runs.records)})", ("arm", "on", *(c.title for c in plain)), rows, texts=2)


def all_figures_table(section: Section) -> Grid:
    """Every figure, one row each, a column an arm."""
    names = dict.fromkeys(name for group in section.groups for name in group.figures)
    rows = tuple((name, *(_any_cell(group.figures.get(name)) for group in section.groups)) for name in names)
    return Grid("All figures", ("", *(group.arm for group in section.groups)), rows)


def exact_table(section: Section) -> Grid | None:
    """Greedy exact match, a row an arm; None if no run has it."""
    columns = {name: (f"exact.{name}", f"base.exact.{name}") for name in SCORES}
    return _arms_table(section, "Greedy exact match, at the length of the wanted answer", columns)


def free_table(section: Section, *, brief: bool = False) -> Grid | None:
    """What the arms write until they stop, a row an arm; None if no run has it.

    Args:
        section: the arms.
        brief: whether only that is shown which is exactly the answer.
    """
    if brief:
        shown = {str(kind): f"{kind}.exact" for kind in KINDS}
    else:
        names = [f"{kind}.{way}" for kind in KINDS for way in ("exact", "contained", "judged")]
        names += ["fluency.entropy", "fluency.repetition", "stopped"]
        shown = {name.replace(".", " "): name for name in names}
    columns = {column: (f"free.patched.{name}", f"free.base.{name}") for column, name in shown.items()}
    title = "What the model writes until it stops" + (", by its first sentence" if brief else "")
    return _arms_table(section, title, columns)


def _arms_table(section: Section, title: str, columns: Mapping[str, tuple[str, str]]) -> Grid | None:
    """Figures by their columns' titles, of the arms and of the base, as far as some run has them."""
    shown = {
        column: names
        for column, names in columns.items()
        if any(names[0] in group.figures for group in section.groups)
    }
    if not shown:
        return None
    base = section.groups[0].figures
    rows = [(BASE, *(figure_cell(base.get(of_base)) for _, of_base in shown.values()))]
    rows += [
        (_arm(group), *(figure_cell(group.figures.get(name)) for name, _ in shown.values()))
        for group in section.groups
    ]
    return Grid(title, ("", *shown), tuple(rows))


def figure_cell(figure: Figure | None) -> str:
    """A score with its interval, or with its deviation over seeds."""
    return _cell(figure, _Column("", "", interval=True))


def _any_cell(figure: Figure | None) -> str:
    if figure is None:
        return NONE
    spread = "" if figure.deviation is None else f" ± {figure.deviation:.4g}"
    interval = "" if figure.low is None else f" ({figure.low:.4g} to {figure.high:.4g})"
    return f"{figure.value:.6g}{spread or interval}"


_COMPARED = tuple(column.figure for column in _SUMMARY)


def comparison_table(comparison: Comparison, pair: Pair, *, everything: bool = False) -> Grid:
    """The figures of a pair side by side; the main ones, or all that both have."""
    columns = ("", comparison.first.label, comparison.second.label, "difference", "intervals")
    figures = pair.figures
    names = list(figures) if everything else [name for name in _COMPARED if name in figures]
    both = ((name, *figures[name]) for name in names)
    rows = tuple(
        (name, _any_cell(a), _any_cell(b), f"{b.value - a.value:+.4g}", _overlap(a, b)) for name, a, b in both
    )
    return Grid(pair.title, columns, rows)


def _overlap(first: Figure, second: Figure) -> str:
    found = first.overlaps(second)
    return NONE if found is None else "overlap" if found else "apart"


def csv_text(runs: RunSet) -> str:
    """Every figure of every run as CSV, one line each. Failed runs have a line with their error."""
    columns = ("suite", "arm", "method", "rival", "model", "data", "facts", "mode", "batch_size", "seed")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow((*columns, "status", "figure", "value", "low", "high", "prompts", "error"))
    for record in runs.records:
        model, data, facts, mode, batch_size = setting_of(record)
        about: tuple[object, ...] = (record.suite, record.arm, record.method, record.rival, model, data)
        about += (facts, mode, batch_size, record.seed, record.status)
        if record.error is not None:
            writer.writerow(map(_harmless, (*about, "", "", "", "", "", record.error)))
        for name, figure in figures_of(record).items():
            cells = (name, figure.value, figure.low, figure.high, figure.prompts, "")
            writer.writerow(map(_harmless, (*about, *cells)))
    return out.getvalue()


def _harmless(cell: object) -> object:
    """A text that a spreadsheet does not take for a formula."""
    if cell is None:
        return ""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell

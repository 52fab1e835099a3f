"""The report as one HTML page: no script, no address of another file, and texts of strangers as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from moe_patch.bench.report.compare import Comparison
from moe_patch.bench.report.drawings import (
    Drawing,
    Styles,
    arm_styles,
    drawings_across,
    drawings_of,
)
from moe_patch.bench.report.runs import RunSet, Section
from moe_patch.bench.report.tables import (
    Grid,
    all_figures_table,
    comparison_table,
    exact_table,
    free_table,
    score_table,
)
from moe_patch.io.plain_text import plain_json, plain_text

_TEMPLATE = "page.html.j2"


@dataclass(frozen=True, slots=True)
class _Shown:
    """What the page shows of a section."""

    title: str
    main: Grid
    tables: list[Grid]
    everything: Grid
    drawings: list[Drawing]
    legend: list[tuple[str, str, str]]  # colour, mark and name of each arm
    texts: list[tuple[str, list[dict[str, Any]]]]  # by arm


def html_page(runs: RunSet, comparison: Comparison | None = None) -> str:
    """The page of some runs, and of a comparison with others.

    Raises:
        ConfigError: matplotlib is missing.
    """
    sets = [runs] if comparison is None else [comparison.first, comparison.second]
    styles = arm_styles([group.arm for each in sets for group in each.groups])
    labels = [each.label for each in sets]
    page: str = _template().render(
        title=" and ".join(labels) if comparison else runs.label,
        sets=[(each.label, [_section(section, styles) for section in each.sections]) for each in sets],
        across=[drawing for each in sets for drawing in drawings_across(each.groups, styles)],
        legend=[(style.colour, style.mark, arm) for arm, style in styles.items()],
        comparison=None if comparison is None else _compared(comparison),
        failed=[record for each in sets for record in each.failed],
        made=_made(sets),
        configurations=[
            (f"{record.arm}, seed {record.seed}", plain_json(record.config))
            for each in sets
            for record in each.records
        ],
        count=sum(len(each.records) for each in sets),
    )
    return page


def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(
            default=True, default_for_string=True, enabled_extensions=("j2", "html")
        ),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: plain_text(value) if type(value) is str else value,
    )
    environment.filters["drawn"] = _drawn
    environment.filters["whole"] = lambda text: Markup(escape(text))
    return environment.get_template(_TEMPLATE)


def _section(section: Section, styles: Styles) -> _Shown:
    return _Shown(
        title=section.title,
        main=score_table(section),
        tables=[table for table in (free_table(section), exact_table(section)) if table is not None],
        everything=all_figures_table(section),
        drawings=drawings_of(section, styles),
        legend=[(styles[g.arm].colour, styles[g.arm].mark, g.arm) for g in section.groups],
        texts=[(group.arm, list(group.first.texts)) for group in section.groups if group.first.texts],
    )


def _compared(comparison: Comparison) -> dict[str, Any]:
    return {
        "main": [comparison_table(comparison, pair) for pair in comparison.pairs],
        "everything": [comparison_table(comparison, pair, everything=True) for pair in comparison.pairs],
        "alone": [
            (label, group.arm)
            for label, groups in (
                (comparison.first.label, comparison.only_first),
                (comparison.second.label, comparison.only_second),
            )
            for group in groups
        ],
    }


def _made(sets: Sequence[RunSet]) -> list[tuple[str, str]]:
    """What the runs were made with: each distinct value once."""
    records = [record for each in sets for record in each.records]
    found: dict[str, dict[str, None]] = {}
    for record in records:
        of = {
            "suite": record.suite,
            "model": f"{record.base.name} ({record.base.root}), {record.base.dtype} on {record.base.device}",
            "facts": f"{record.data.name}: {record.data.records} records, {record.data.hash}",
            **record.versions,
        }
        for name, value in of.items():
            found.setdefault(name, {})[value] = None
    return [(name, "; ".join(values)) for name, values in found.items()]


def _drawn(drawing: Drawing) -> Markup:
    """An SVG element as it is: matplotlib has escaped its texts."""
    return Markup(drawing.svg)

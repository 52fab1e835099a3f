"""How evaluations are shown, and what of them is written to files: of one patch, or of several compared."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_patch.cli.console import print_json, print_tables
from moe_patch.cli.report import show_evaluations
from moe_patch.io.plain_text import plain_text

if TYPE_CHECKING:
    from rich.table import Table

    from moe_patch.evaluation import EvaluationReport
    from moe_patch.progress import Progress

Reports = Mapping[str, "EvaluationReport"]
"""Reports by the names of their patches."""


def named_progress(progress: Progress | None, name: str, names: Collection[str]) -> Progress | None:
    """Progress with the patch's name before each stage, where there are several patches."""
    if progress is None or len(names) == 1:
        return progress
    return lambda stage, done, total: progress(f"{name}: {stage}", done, total)


def write_lines(reports: Reports, *, replies: Path | None, samples: Path | None) -> None:
    """Write all replies, and all samples, to their files as JSON lines, as far as they are asked for.

    Raises:
        OutputError: a file cannot be written.
    """
    if replies is not None:
        _write(replies, _marked(reports, {name: report.replies() for name, report in reports.items()}))
    if samples is not None:
        lines = {name: (each.to_json() for each in report.samples) for name, report in reports.items()}
        _write(samples, _marked(reports, lines))


def _marked(reports: Reports, lines: Mapping[str, Iterable[dict[str, Any]]]) -> Iterable[dict[str, Any]]:
    """The lines of all patches, with the patch's name in each where there are several."""
    for name, some in lines.items():
        mark = {"patch": name} if len(reports) > 1 else {}
        yield from (mark | each for each in some)


def _write(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    from moe_patch.io.files import write_text
    from moe_patch.io.strict_json import canonical_json

    write_text(path, "".join(f"{canonical_json(each)}\n" for each in lines))


def show_reports(reports: Reports, *, per_fact: bool, as_json: bool) -> None:
    """Print one report as it is, and several side by side; samples only if they are to be shown."""
    from moe_patch.bench.report import Evaluated

    shown = {name: each if per_fact else replace(each, samples=()) for name, each in reports.items()}
    if len(shown) > 1:
        if per_fact and not as_json:
            print_tables(*(_facts_table(name, each) for name, each in shown.items()))
        show_evaluations([Evaluated(name, each.to_json()) for name, each in shown.items()], as_json=as_json)
        return
    (report,) = shown.values()
    if as_json:
        print_json(report.to_json())
    else:
        print_tables(*report.tables())


def _facts_table(name: str, report: EvaluationReport) -> Table:
    from moe_patch.evaluation.samples import samples_table

    table = samples_table(report.samples)
    table.title = plain_text(f"{name}: {table.title}")
    return table

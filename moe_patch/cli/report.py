"""`moe-patch report`: the runs of a bench as tables, one HTML page, CSV or JSON; two sets compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_patch.cli.console import plain_table, print_json, print_tables, say
from moe_patch.cli.options import NEW_FILE, json_option
from moe_patch.cli.output import check_writable

if TYPE_CHECKING:
    from rich.table import Table

    from moe_patch.bench.report import Comparison, Evaluated, Grid, RunSet

RUNS = click.Path(exists=True, path_type=Path)


@click.command(
    epilog="""\b
Examples:
  moe-patch report runs --html report.html
  moe-patch report runs --csv figures.csv
  moe-patch report before/moeedit.json after/moeedit.json --json
  moe-patch report capitals.json rivers.json
""",
)
@click.argument("first", metavar="RUNS", type=RUNS)
@click.argument("second", metavar="[OTHERS]", type=RUNS, required=False)
@click.option(
    "--html", type=NEW_FILE, help="Write one page with tables, drawings and texts; it needs no network."
)
@click.option("--csv", "csv_path", type=NEW_FILE, help="Write every figure of every run, one line each.")
@json_option
def report(first: Path, second: Path | None, html: Path | None, csv_path: Path | None, as_json: bool) -> None:
    """Show RUNS, a folder of "moe-patch bench" or one of its files, or compare them with OTHERS.

    Runs that differ in their seed alone are shown as their mean and standard deviation. RUNS and OTHERS may
    also be files with what "moe-patch eval --json" has printed: they are shown side by side.
    """
    from moe_patch.bench.report import compare, csv_text, html_page, read_run_set
    from moe_patch.io.files import write_text

    if evaluated := _evaluations(first, second):
        if html is not None or csv_path is not None:
            raise click.UsageError("--html and --csv are for runs of a bench, and these are evaluations.")
        show_evaluations(evaluated, as_json=as_json)
        return

    for path, option in ((html, "--html"), (csv_path, "--csv")):
        if path is not None:
            check_writable(path, option)
    runs = read_run_set(first)
    comparison = None if second is None else compare(runs, read_run_set(second))
    if html is not None:
        write_text(html, html_page(runs, comparison))
    if csv_path is not None:
        both = [runs] if comparison is None else [runs, comparison.second]
        write_text(csv_path, _joined([csv_text(each) for each in both]))
    if as_json:
        print_json(runs.to_json() if comparison is None else comparison.to_json())
        return
    _show(runs, comparison)
    say(*(f"{path}: written" for path in (html, csv_path) if path is not None))


def _evaluations(first: Path, second: Path | None) -> list[Evaluated]:
    """What the files hold, if they hold evaluations; nothing if they do not."""
    from moe_patch.bench.report import read_evaluations

    paths = [first] if second is None else [first, second]
    read = [None if path.is_dir() else read_evaluations(path) for path in paths]
    if not any(read):
        return []
    if not all(read):
        raise click.UsageError("RUNS and OTHERS are of two kinds: compare runs with runs, or evaluations.")
    return [each for some in read for each in some or ()]


def show_evaluations(evaluated: Sequence[Evaluated], *, as_json: bool) -> None:
    """Print evaluations side by side."""
    from moe_patch.bench.report import evaluations_table

    if as_json:
        print_json({"evaluations": [{**each.report, "patch": each.name} for each in evaluated]})
    else:
        print_tables(terminal_table(evaluations_table(evaluated)))


def _joined(texts: list[str]) -> str:
    """Texts of CSV as one, with one header."""
    return texts[0] + "".join(text.partition("\n")[2] for text in texts[1:])


def _show(runs: RunSet, comparison: Comparison | None) -> None:
    from moe_patch.bench.report import comparison_table, free_table, score_table

    if comparison is None:
        for section in runs.sections:
            grids = (score_table(section), free_table(section, brief=True))
            print_tables(*(terminal_table(grid) for grid in grids if grid is not None))
    else:
        print_tables(*(terminal_table(comparison_table(comparison, pair)) for pair in comparison.pairs))
        alone = ((comparison.first, comparison.only_first), (comparison.second, comparison.only_second))
        say(*(f"Only in {each.label}: {group.arm}" for each, groups in alone for group in groups))
    say(*(f"{record.arm}, seed {record.seed}: failed: {record.error}" for record in runs.failed))


def terminal_table(grid: Grid) -> Table:
    """A table for a terminal."""
    columns: Any = grid.columns
    table = plain_table(grid.title, columns, right=columns[grid.texts :])
    for row in grid.rows:
        table.add_row(*row)
    return table

"""Where output goes: reports to standard output, logs and progress to standard error."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from moe_patch.progress import Progress as Report


def log_to_stderr(level: int) -> None:
    """Show the library's log records from `level` upwards on standard error.

    Deprecation warnings of the libraries below are for developers: they are shown only at INFO or DEBUG.
    """
    logger = logging.getLogger("moe_patch")
    handler = RichHandler(console=Console(stderr=True), show_time=False, show_path=False)
    logger.handlers = [handler]
    logger.setLevel(level)
    logging.captureWarnings(True)
    warned = logging.getLogger("py.warnings")  # at the level WARNING, whatever their category
    warned.handlers, warned.propagate = [handler], False
    warned.setLevel(level)
    warned.filters = [_NoNotices()] if level > logging.INFO else []


class _NoNotices(logging.Filter):
    """Filters out deprecation messages, logged or warned. Other warnings pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return not any(sign in text for sign in ("deprecat", "DeprecationWarning:", "FutureWarning:"))


def hide_notices(library: str) -> None:
    """Hide a library's deprecation messages from its log, unless our own log level is INFO or DEBUG."""
    if logging.getLogger("moe_patch").level > logging.INFO:
        for handler in logging.getLogger(library).handlers:
            handler.addFilter(_NoNotices())


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object to standard output."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_tables(*tables: Table) -> None:
    """Print tables to standard output, at full width if it is not a terminal.

    Text is printed literally: a model's answer may look like markup or like the name of an emoji.
    """
    width = None if Console().is_terminal else 1000
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    for table in tables:
        console.print(table)


def plain_table(title: str, columns: Sequence[str], right: Sequence[str] = ()) -> Table:
    """An empty table; the columns named in `right` are right-aligned, for numbers."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


@contextmanager
def progress_bars() -> Iterator[Report | None]:
    """A function that draws progress as one bar for each stage; None unless stderr is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage)
            bars.update(tasks[stage], completed=done, total=total)

        yield report

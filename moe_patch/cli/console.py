"""Where output goes: reports to standard output, logs to standard error."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from rich.text import Text

from moe_patch.cli.layout import fitted
from moe_patch.io.plain_text import plain_json, plain_text

FULL = 1000  # characters of a line where there is no terminal


def log_to_stderr(level: int) -> None:
    """Show the library's log records from `level` upwards on standard error.

    Deprecation warnings of the libraries below are for developers: they are shown only at INFO or DEBUG.
    """
    logger = logging.getLogger("moe_patch")
    handler = RichHandler(console=Console(stderr=True), show_time=False, show_path=False)
    handler.setFormatter(_PlainFormatter())
    logger.handlers = [handler]
    logger.setLevel(level)
    logging.captureWarnings(True)
    warned = logging.getLogger("py.warnings")  # at the level WARNING, whatever their category
    warned.handlers, warned.propagate = [handler], False
    warned.setLevel(level)
    warned.filters = [_NoNotices()] if level > logging.INFO else []


class _PlainFormatter(logging.Formatter):
    """Shows a message in one line, since it may quote a file; only a traceback has several."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (named so by its base)
        return plain_text(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 (as above)
        return "\n".join(map(plain_text, super().formatException(ei).split("\n")))


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
    click.echo(plain_json(dict(value)))


def print_json_line(value: Mapping[str, Any]) -> None:
    """Print one JSON object in one line of ASCII to standard output."""
    click.echo(json.dumps(dict(value)))


def say(*lines: str, err: bool = False) -> None:
    """Print lines to standard output or to standard error. What they quote of files is text and no more."""
    for line in lines:
        click.echo(plain_text(line), err=err)


def print_tables(*tables: Table) -> None:
    """Print tables to standard output, for the width of the terminal; into a file or a pipe at full width.

    $COLUMNS says the width where there is no terminal.

    Text is printed literally: a model's answer may look like markup or like the name of an emoji.
    """
    full = not Console().is_terminal and not os.environ.get("COLUMNS", "").isdecimal()
    console = Console(width=FULL if full else None, markup=False, emoji=False, highlight=False)
    for table in tables:
        console.print(fitted(table, console), soft_wrap=False, crop=False)


def marked_text(before: str, marked: str, after: str) -> Text:
    """A cell of a table with a part in brackets, which a terminal shows in bold too."""
    return Text.assemble(plain_text(before), (f"[{plain_text(marked)}]", "bold"), plain_text(after))


class _PlainTable(Table):
    """A table whose title and cells are text and no more, whatever they quote of files."""

    def add_row(self, *cells: str | Text, **options: Any) -> None:  # type: ignore[override]
        """Add a row of texts, or of what `marked_text` makes of them."""
        plain = (cell if isinstance(cell, Text) else plain_text(cell) for cell in cells)
        super().add_row(*plain, **options)


def plain_table(title: str, columns: Sequence[str], right: Sequence[str] = ()) -> Table:
    """An empty table; the columns named in `right` are right-aligned, for numbers."""
    table = _PlainTable(title=plain_text(title), title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(plain_text(column), justify="right" if column in right else "left", overflow="fold")
    return table

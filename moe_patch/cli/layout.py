"""Tables for the width that there is: words are never broken, and nothing is cut.

The first of these that fits is taken: the table in its box, with its text wrapped between words; without the
box's vertical lines; turned by a quarter, if it has few rows and only numbers; with ranges written shorter;
its rows one below the other. A word wider than the terminal, as a path may be, is left to it to wrap.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

_BOXED = (3, 1)  # characters that a box takes for each column, and once
_OPEN = (2, -2)  # the same without vertical lines
_TURNED = 8  # rows that may become columns
_LINES, _EASY = 3, 24  # a cell takes no more lines, unless it is so many characters wide
_INDENT = "  "
_DASH = "\N{EN DASH}"
_GAP = 2  # characters between a name and its value


def fitted(table: Table, console: Console) -> RenderableType:
    """The table in a layout for the console's width. The table itself may be changed.

    Args:
        table: its cells are strings or texts.
        console: on which it will be printed.
    """
    columns = _columns(table)
    if _fit(table, columns, console.width):
        return table
    if len(columns) > 2 and all(column.numbers for column in columns[1:]) and table.row_count <= _TURNED:
        turned = _turned(table, columns)
        if _fit(turned, _columns(turned), console.width):
            return turned
    short = _with_short_ranges(table, columns)
    if _fit(short, _columns(short), console.width):
        return short
    return Group(*_below(table, columns, console))


@dataclass(frozen=True, slots=True)
class _Column:
    """A column as text, and how many characters wide it is."""

    header: Text
    cells: tuple[Text, ...]
    numbers: bool
    least: int  # with every text wrapped between words
    body: int  # with no cell wrapped, but the header
    most: int  # with nothing wrapped


def _columns(table: Table) -> list[_Column]:
    found = []
    for number, column in enumerate(table.columns):
        cells = tuple(map(_text, column.cells))
        header = _text(column.header) if table.show_header else Text()
        named = not table.show_header and number == 0  # names of values are kept whole, as numbers are
        numbers = column.justify == "right"
        body = max((line.cell_len for cell in cells for line in cell.split("\n")), default=0)
        words = body if named or numbers else max(map(_longest_word, cells), default=0)
        least = max(words, _longest_word(header))
        found.append(_Column(header, cells, numbers, least, max(least, body), max(body, header.cell_len)))
    return found


def _text(cell: RenderableType) -> Text:
    if isinstance(cell, Text):
        return cell
    if isinstance(cell, str):
        return Text(cell)
    raise TypeError(f"a cell of a table is text, not {type(cell).__name__}")


def _longest_word(text: Text) -> int:
    return max((Text(word).cell_len for word in text.plain.split()), default=0)


def _fit(table: Table, columns: Sequence[_Column], width: int) -> bool:
    """Give the columns widths in which no word is broken, with or without lines; false if there are none."""
    for per_column, once in (_BOXED, _OPEN):
        widths = _shared(columns, width - per_column * len(columns) - once)
        if widths is None or not _readable(columns, widths):
            continue
        for column, own in zip(table.columns, widths, strict=True):
            column.width, column.overflow = own, "fold"
        if (per_column, once) == _OPEN:
            table.box, table.padding = box.SIMPLE_HEAD, (0, 1, 0, 0)
            table.show_edge = table.pad_edge = False
        return True
    return False


def _shared(columns: Sequence[_Column], room: int) -> list[int] | None:
    """The columns' widths within `room`; None if it is too little.

    What is left over the longest words goes to the cells that would take most lines, and then to headers.
    """
    widths = [column.least for column in columns]
    spare = room - sum(widths)
    if spare < 0:
        return None
    for wanted in ([column.body for column in columns], [column.most for column in columns]):
        while spare and any(width < want for width, want in zip(widths, wanted, strict=True)):
            lines = [want / max(width, 1) for width, want in zip(widths, wanted, strict=True)]
            widths[lines.index(max(lines))] += 1
            spare -= 1
    return widths


def _readable(columns: Sequence[_Column], widths: Sequence[int]) -> bool:
    """Whether no column is a narrow ladder of words."""
    return all(
        width >= _EASY or column.body <= _LINES * width for column, width in zip(columns, widths, strict=True)
    )


def _turned(table: Table, columns: Sequence[_Column]) -> Table:
    """The table with its rows as columns."""
    turned = Table(title=table.title, title_justify=table.title_justify, header_style=table.header_style)
    turned.add_column(columns[0].header)
    for name in columns[0].cells:
        turned.add_column(name, justify="right")
    for column in columns[1:]:
        turned.add_row(column.header, *column.cells)
    return turned


def _with_short_ranges(table: Table, columns: Sequence[_Column]) -> Table:
    """The table with a dash in ranges such as "92.9 to 100.0", in its columns of numbers."""
    short = Table(title=table.title, title_justify=table.title_justify, header_style=table.header_style)
    short.show_header = table.show_header
    for column in columns:
        short.add_column(column.header, justify="right" if column.numbers else "left")
    for number, row in enumerate(table.rows):
        cells = [
            Text(column.cells[number].plain.replace(" to ", _DASH))
            if column.numbers
            else column.cells[number]
            for column in columns
        ]
        short.add_row(*cells, style=row.style)
    return short


def _below(table: Table, columns: Sequence[_Column], console: Console) -> Iterator[Text]:
    """The rows one below the other, each value beside or below its column's name."""
    if table.title:
        yield Text(str(table.title), style="bold")
    first, *others = columns
    for number, cell in enumerate(first.cells):
        if not table.show_header and len(others) == 1:
            yield from _named(cell, others[0].cells[number], first.most, "", console)
            continue
        if number:
            yield Text("")
        yield Text.assemble(first.header, " ", cell) if first.numbers and first.header else cell
        widest = max(column.header.cell_len for column in others)
        for column in others:
            if column.cells[number]:
                yield from _named(column.header, column.cells[number], widest, _INDENT, console)


def _named(name: Text, value: Text, widest: int, indent: str, console: Console) -> Iterator[Text]:
    """A name with its value behind it, or below it if a word of it would not fit there."""
    start = f"{indent}{name.plain}{' ' * (widest - name.cell_len + _GAP)}"
    if _longest_word(value) > console.width - cell_len(start):
        yield Text(start.rstrip())
        start = f"{indent}{_INDENT}"
    for number, line in enumerate(_wrapped(value, console.width - cell_len(start))):
        before = " " * cell_len(start) if number else start
        yield Text(before, no_wrap=True, overflow="ignore").append_text(line)


def _wrapped(text: Text, width: int) -> Iterator[Text]:
    """The text in lines of `width`, each of whole words; a longer word is a line of its own."""
    breaks, used = [], 0
    for word in re.finditer(r"\s*\S+", text.plain):
        length = Text(word[0]).cell_len
        if used and used + length > width:
            breaks.append(word.end() - len(word[0].lstrip()))
            length = Text(word[0].lstrip()).cell_len
            used = 0
        used += length
    for line in text.divide(breaks):
        line.rstrip()
        yield line

"""Tables as HTML, for notebooks. What they quote of files is text and no more."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Protocol

from rich.table import Table


class _HasTables(Protocol):
    def tables(self) -> Sequence[Table]: ...


class Tabled:
    """A report that notebooks show as its `tables()`."""

    __slots__ = ()

    def _repr_html_(self: _HasTables) -> str:
        return "\n".join(map(html_table, self.tables()))


def html_table(table: Table) -> str:
    """A table of plain texts as an HTML element."""
    sides = [f' style="text-align: {column.justify}"' for column in table.columns]
    title = f"<caption>{escape(str(table.title))}</caption>" if table.title else ""
    head = _row("th", [str(column.header) for column in table.columns], sides) if table.show_header else ""
    rows = zip(*([str(cell) for cell in column.cells] for column in table.columns), strict=True)
    body = "".join(_row("td", row, sides) for row in rows)
    return f"<table>{title}<thead>{head}</thead><tbody>{body}</tbody></table>"


def _row(tag: str, cells: Sequence[str], sides: Sequence[str]) -> str:
    written = (f"<{tag}{side}>{escape(cell)}</{tag}>" for cell, side in zip(cells, sides, strict=True))
    return f"<tr>{''.join(written)}</tr>"

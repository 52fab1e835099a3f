"""The answers of several states to one prompt, in a terminal: side by side where there is room."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from moe_patch.io.plain_text import plain_text

_NARROWEST = 36  # characters of a column
_GAP = 2  # between columns


def answers_view(answers: Mapping[str, str], width: int) -> RenderableType:
    """Answers under the names of their states, for a terminal of this width."""
    if width < len(answers) * (_NARROWEST + _GAP):
        return Group(*(part for name, text in answers.items() for part in (_name(name), _lines(text))))
    grid = Table.grid(padding=(0, _GAP, 0, 0), expand=True)
    for _ in answers:
        grid.add_column(ratio=1, overflow="fold")
    grid.add_row(*map(_name, answers))
    grid.add_row(*map(_lines, answers.values()))
    return grid


def _name(name: str) -> Text:
    return Text(plain_text(name), style="bold")


def _lines(text: str) -> Text:
    """What a model said, with its own lines, and nothing in it that a terminal would obey."""
    return Text("\n".join(map(plain_text, text.split("\n"))), overflow="fold")

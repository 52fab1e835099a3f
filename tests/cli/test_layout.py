"""Tables in terminals of all widths: nothing is cut, no word is broken, and two widths are as designed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from moe_patch.cli.console import plain_table
from moe_patch.cli.layout import fitted
from tests.cli.conftest import Run
from tests.cli.snapshots.drawn import DRAWN, WIDTHS, drawn, snapshot

LINES = re.compile("[\u2500-\u257f]")  # what boxes are drawn with


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", DRAWN)
def test_tables_look_as_they_were_designed(name: str, width: int) -> None:
    shown = drawn(name, width)
    assert shown == snapshot(name, width).read_text(encoding="utf-8")
    assert max(map(cell_len, shown.splitlines())) <= width


WORDS = st.lists(st.text("abcdefghijklm日本", min_size=1, max_size=12), max_size=8).map(" ".join)
NUMBERS = st.floats(0, 100).map(lambda value: f"{value:.1f}") | st.just("92.9 to 100.0") | st.just("")


def test_names_of_wide_characters_are_measured_by_cells() -> None:
    table = plain_table("", ["", ""])
    table.show_header = False
    table.add_row("日日日 日日日", "a" * 24)
    table.add_row("b" * 13, "c" * 26)
    console = Console(width=40, color_system=None)
    with console.capture() as captured:
        console.print(fitted(table, console), crop=False)
    assert captured.get().splitlines() == [f"日日日 日日日  {'a' * 24}", f"{'b' * 13}", f"  {'c' * 26}"]


@settings(deadline=None)
@given(data=st.data(), width=st.integers(40, 130), rows=st.integers(0, 10), header=st.booleans())
def test_every_word_is_whole_in_a_table_of_any_width(
    data: st.DataObject, width: int, rows: int, header: bool
) -> None:
    kinds = data.draw(st.lists(st.booleans(), min_size=2, max_size=8))
    names = [f"name{number} of column" for number in range(len(kinds))]
    numbers = [name for name, right in zip(names, kinds, strict=True) if right]
    table = plain_table("A title", names, right=numbers)
    table.show_header = header
    written: list[str] = []
    for _ in range(rows):
        cells = [data.draw(NUMBERS if right else WORDS) for right in kinds]
        written += cells
        table.add_row(*cells)
    console = Console(width=width, color_system=None, markup=False, emoji=False, highlight=False)
    with console.capture() as captured:
        console.print(fitted(table, console), crop=False)
    shown = captured.get()
    assert "…" not in shown
    assert all(cell_len(line.rstrip()) <= width for line in shown.splitlines())
    said = LINES.sub(" ", shown).replace("\N{EN DASH}", " to ").split()
    for word in " ".join(written).split():
        assert word in said
        said.remove(word)


def test_what_is_wider_than_the_terminal_alone_is_left_to_it() -> None:
    path, console = "/" + 120 * "a", Console(width=40, color_system=None)
    table = plain_table("", ("name", "value"))
    table.add_row("corpus", path)
    with console.capture() as captured:
        console.print(fitted(table, console), crop=False)
    assert path in captured.get().split()


def test_a_pipe_gets_whole_lines_unless_columns_says_how_wide_they_are(
    run: Run, patch_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = run("inspect", patch_file).stdout
    monkeypatch.setenv("COLUMNS", "60")
    narrow = run("inspect", patch_file).stdout
    assert max(map(len, wide.splitlines())) > 80
    beyond = [line for line in narrow.splitlines() if len(line.rstrip()) > 60]
    assert all(re.fullmatch(r" *sha256:[0-9a-f]{64}", line) for line in beyond)

"""Tables as HTML."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from rich.table import Table

from moe_patch.io.html_tables import Tabled, html_table


@pytest.fixture
def table() -> Table:
    found = Table("name", title="A <title>")
    found.add_column("value", justify="right")
    found.add_row("<script>alert(1)</script>", "1 & 2")
    return found


def test_cells_stand_in_their_place(table: Table) -> None:
    read = ElementTree.fromstring(html_table(table))
    assert [cell.text for cell in read.iter("th")] == ["name", "value"]
    assert [cell.text for cell in read.iter("td")] == ["<script>alert(1)</script>", "1 & 2"]
    assert [cell.get("style") for cell in read.iter("td")] == ["text-align: left", "text-align: right"]
    assert read.findtext("caption") == "A <title>"


def test_a_hidden_header_is_left_out(table: Table) -> None:
    table.show_header = False
    assert not list(ElementTree.fromstring(html_table(table)).iter("th"))


def test_a_report_shows_all_of_its_tables(table: Table) -> None:
    class Report(Tabled):
        def tables(self) -> list[Table]:
            return [table, table]

    assert Report()._repr_html_().count("<table>") == 2

"""Changes of routing as data and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.table import Table

from moe_patch.evaluation.routing import LayerShift, RoutingShift, Window


def shift_json(shift: RoutingShift | None) -> dict[str, Any] | None:
    """A change of routing as plain data: percentages, and divergences in nats."""
    if shift is None:
        return None
    return {
        "similarity": shift.similarity,
        "divergence": shift.divergence,
        "windows": [asdict(window) for window in shift.windows],
        "layers": [asdict(layer) for layer in shift.layers],
    }


def routing_table(edited: RoutingShift, others: Mapping[str, RoutingShift | None]) -> Table:
    """Layers, then windows and the mean above the lowest edit; a pair of columns for each kind of prompt."""
    title = "Routing, before against after: similarity of top-K sets in percent, KL of gates in nats"
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("layer")
    kinds: dict[str, RoutingShift] = {"edited": edited}
    kinds |= {name: shift for name, shift in others.items() if shift is not None}
    for name in kinds:
        table.add_column(name, justify="right")
        table.add_column("KL", justify="right")
    for place, layer in enumerate(edited.layers):
        table.add_row(str(layer.layer), *_cells([shift.layers[place] for shift in kinds.values()]))
    for place, window in enumerate(edited.windows):
        name = f"{window.name}: {window.first} to {window.last}"
        table.add_row(name, *_cells([shift.windows[place] for shift in kinds.values()]))
    table.add_row(f"mean above {edited.lowest_edited}", *_cells(list(kinds.values())), style="bold")
    return table


def _cells(shifts: list[LayerShift] | list[Window] | list[RoutingShift]) -> list[str]:
    cells = []
    for shift in shifts:
        cells += [_plain(shift.similarity, 1), _plain(shift.divergence, 4)]
    return cells


def _plain(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"

"""What a patch's build preserved, in words and as a table, for `build`, `inspect` and `drop`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from moe_patch.cli.console import plain_table
from moe_patch.io.wording import counted


def preserved_line(hyperparameters: Mapping[str, Any]) -> str:
    """The text that was preserved, in a line; empty if the patch does not say."""
    text = hyperparameters.get("preserved_text")
    if "preserved_text" not in hyperparameters:
        return ""
    if not isinstance(text, Mapping):
        return "none"
    if text.get("source") != "own":
        return "as given"
    if not isinstance(tokens := text.get("tokens"), int):
        return "the base's own"
    state = "enough" if text.get("settled") else "not enough"
    sought = (
        f"; more was written for {counted(text['sought'], 'expert')} hardly reached"
        if text.get("sought")
        else ""
    )
    return f"the base's own, {tokens:,} tokens: {state} for the directions that it uses to settle{sought}"


def protection_table(hyperparameters: Mapping[str, Any]) -> Table | None:
    """By layer, how much is protected and how much room that leaves to the facts; None if nothing is."""
    layers = [
        layer
        for layer in hyperparameters.get("protection") or ()
        if isinstance(layer, Mapping) and {"protected", "room_min", "room_median"} <= layer.keys()
    ]
    if not layers:
        return None
    columns = ("layer", "protected", "left of a fact's keys", "least", "experts hardly reached")
    title = "Protected share of the experts' directions, and what it leaves of the facts' keys (percent)"
    table = plain_table(title, columns, right=columns)
    for layer in layers:
        shares = (f"{100 * layer[name]:.1f}" for name in ("protected", "room_median", "room_min"))
        table.add_row(str(layer["layer"]), *shares, str(len(layer.get("unseen", ()))))
    return table

"""A heat map of how far each patch moves the facts of the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from moe_patch.errors import ConfigError
from moe_patch.io.figure import new_figure, save_figure
from moe_patch.io.plain_text import plain_text
from moe_patch.stack.conflicts import Disturbance

_INCHES_A_PATCH = 0.5
_MARGIN = 2.5  # inches, for the names of patches


def draw_heatmap(disturbances: Sequence[Disturbance], path: Path) -> None:
    """Draw the largest share over all layers for each pair: the column's patch moves the row's facts.

    Raises:
        ConfigError: matplotlib is missing, there is nothing to draw, or the file ending is unknown.
        OutputError: the file cannot be written.
    """
    if not disturbances:
        raise ConfigError("there is nothing to draw: no two enabled patches edit the same layer")
    names, shares = share_table(disturbances)
    side = _MARGIN + _INCHES_A_PATCH * len(names)
    figure = new_figure(path, side + 1, side)
    axes = figure.add_subplot()
    image = axes.imshow([[100 * share for share in row] for row in shares], cmap="magma_r", vmin=0)
    labels = [plain_text(name, 80).replace("$", r"\$") for name in names]  # a pair of $ would begin a formula
    axes.set_xticks(range(len(names)), labels, rotation=90)
    axes.set_yticks(range(len(names)), labels)
    axes.set_xlabel("moves")
    axes.set_ylabel("facts of")
    figure.colorbar(image, label="% of the most disturbed fact's own edit, at the worst layer")
    save_figure(figure, path)


def share_table(disturbances: Sequence[Disturbance]) -> tuple[list[str], list[list[float]]]:
    """The patches' names, and for each pair the largest share over all layers: column moves row."""
    names = sorted({name for pair in disturbances for name in (pair.disturbed, pair.by)})
    worst: dict[tuple[str, str], float] = {}
    for pair in disturbances:
        place = pair.disturbed, pair.by
        worst[place] = max(worst.get(place, 0.0), pair.worst)
    return names, [[worst.get((row, column), 0.0) for column in names] for row in names]

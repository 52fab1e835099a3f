"""Figures drawn with matplotlib, which is an extra and slow to import, and written whole."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moe_patch.errors import ConfigError
from moe_patch.io.files import replacing_file

ENDINGS = (".png", ".svg", ".pdf")

_INK = "#010203"
"""A colour that nothing else has, to be replaced by the page's."""

_COLOURS = (
    *("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor"),
    *("xtick.color", "ytick.color", "grid.color"),
)
_PAGE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "moe-patch",
    "text.parse_math": False,  # a dollar in a name begins no formula
    "font.family": "sans-serif",
    "font.sans-serif": ["system-ui", "sans-serif", "DejaVu Sans"],
    "axes.grid": True,
    "grid.alpha": 0.15,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 9,
}


def new_figure(path: Path, width: float, height: float) -> Any:
    """An empty matplotlib figure for a file, of a size in inches.

    Raises:
        ConfigError: the file's ending is unknown, or matplotlib is missing.
    """
    if path.suffix.lower() not in ENDINGS:
        raise ConfigError(f"{path}: expected a name that ends in {', '.join(ENDINGS)}")
    return _figure(width, height)


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError("a drawing needs matplotlib: pip install 'moe-patch[bench]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def svg_element(width: float, height: float, draw: Callable[[Any], None]) -> str:
    """A drawing as an SVG element for a page: lines and letters have the page's colour, and text stays text.

    Args:
        width: in inches; the page may show it smaller.
        height: in inches.
        draw: draws on the axes that it is called with.

    Raises:
        ConfigError: matplotlib is missing.
    """
    figure = _figure(width, height)
    import matplotlib as mpl  # noqa: PLC0415  (it is there: a figure is)

    settings: dict[Any, Any] = _PAGE | dict.fromkeys(_COLOURS, _INK)
    with mpl.rc_context(settings):
        draw(figure.add_subplot())
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    return svg[svg.index("<svg") :].replace(_INK, "currentColor").strip()


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure, in the format of the file's ending.

    Raises:
        OutputError: the file cannot be written.
    """
    with replacing_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=150)

"""Figures drawn with matplotlib, which is an extra and slow to import, and written whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moe_patch.errors import ConfigError
from moe_patch.io.files import replacing_file

ENDINGS = (".png", ".svg", ".pdf")


def new_figure(path: Path, width: float, height: float) -> Any:
    """An empty matplotlib figure for a file, of a size in inches.

    Raises:
        ConfigError: the file's ending is unknown, or matplotlib is missing.
    """
    if path.suffix.lower() not in ENDINGS:
        raise ConfigError(f"{path}: expected a name that ends in {', '.join(ENDINGS)}")
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError("a drawing needs matplotlib: pip install 'moe-patch[bench]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure, in the format of the file's ending.

    Raises:
        OutputError: the file cannot be written.
    """
    with replacing_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=150)

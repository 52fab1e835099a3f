"""Distributions as installers leave them: their metadata in a folder on the path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def install(
    site: Path, name: str, version: str, requires: Sequence[str] = (), extras: Sequence[str] = ()
) -> None:
    """Write the metadata of a release to the folder `site`."""
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    lines = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}"]
    lines += [f"Provides-Extra: {extra}" for extra in extras]
    lines += [f"Requires-Dist: {requirement}" for requirement in requires]
    (folder / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")

"""`moe-patch log`: the history of a patch."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import click

from moe_patch.cli.console import print_json, say
from moe_patch.cli.options import FILE, json_option
from moe_patch.io.wording import counted

if TYPE_CHECKING:
    from moe_patch.patch.schema import Metadata
    from moe_patch.stack.lineage import Ancestor


@click.command(
    epilog="""\b
Examples:
  moe-patch log capitals.safetensors
  moe-patch log fewer.safetensors --search patches --json
"""
)
@click.argument("patch_path", metavar="PATCH", type=FILE)
@click.option(
    "--search",
    "folders",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder to search for its parents; repeatable.  [default: the patch's own]",
)
@json_option
def log(patch_path: Path, folders: tuple[Path, ...], as_json: bool) -> None:
    """Show the history of PATCH: when and with which tools it was built, its parents, and build results.

    Parents are found by hash among the patches of the folder.
    """
    from moe_patch.stack.lineage import patch_lineage

    found = patch_lineage(patch_path, folders or (patch_path.parent,))
    if as_json:
        print_json({"log": [_json(ancestor) for ancestor in found]})
    else:
        for number, ancestor in enumerate(found):
            say(*[""] * min(number, 1), *_lines(ancestor))


def _json(ancestor: Ancestor) -> dict[str, Any]:
    known = ancestor.metadata
    described: dict[str, Any] = {"hash": ancestor.hash, "depth": ancestor.depth, "path": None}
    if known is None:
        return described
    return described | {
        "path": str(ancestor.path),
        "created": known.created,
        "method": known.method,
        "kind": known.kind,
        "facts": len(known.facts),
        "layers": sorted(map(int, known.base.layers)),
        "tools": known.tools,
        "results": _means(known),
        "parents": known.parents,
    }


def _lines(ancestor: Ancestor) -> list[str]:
    known, indent = ancestor.metadata, "  " * ancestor.depth
    lines = [ancestor.hash]
    if known is None:
        lines.append("    its file was not found; name its folder with --search")
    else:
        numbers = sorted(known.base.layers, key=int)
        layers = f"layer{'s' * (len(numbers) != 1)} {', '.join(numbers) or 'none'}"
        tools = ", ".join(f"{name} {version}" for name, version in known.tools.items())
        lines += [
            f"    {ancestor.path}: {counted(len(known.facts), 'fact')}, {layers}, by {known.method}",
            f"    {known.created}, {tools}",
        ]
        if means := _means(known):
            lines.append("    mean " + ", ".join(f"{name} {mean:.4g}" for name, mean in means.items()))
    return [indent + line for line in lines]


def _means(known: Metadata) -> dict[str, float]:
    """For each number in the build results, its mean over all facts, by its name in words."""
    results = known.results or [{}]
    means = {}
    for name in results[0]:
        values = [result.get(name) for result in results]
        numbers = [float(value) for value in values if isinstance(value, int | float)]
        if len(numbers) == len(values):
            means[name.replace("_", " ")] = fmean(numbers)
    return means

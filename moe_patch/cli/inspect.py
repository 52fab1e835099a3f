"""`moe-patch inspect`: show the contents of a patch file without opening a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_patch.cli.console import print_json, print_tables
from moe_patch.cli.model_name import model_or_base_option
from moe_patch.cli.options import FILE, json_option
from moe_patch.progress import progress_bars

if TYPE_CHECKING:
    from moe_patch.patch import Patch

SHOWN = 10  # facts in the table without --all


@click.command(
    epilog="""\b
Examples:
  moe-patch inspect capitals.safetensors --all
  moe-patch inspect capitals.safetensors --model atlas --json
"""
)
@click.argument("patch_path", metavar="PATCH", type=FILE)
@model_or_base_option("Name or folder of the base: compare the changes with its experts.")
@click.option("--all", "show_all", is_flag=True, help=f"Show every fact, not only the first {SHOWN}.")
@json_option
def inspect(patch_path: Path, model: str | None, show_all: bool, as_json: bool) -> None:
    """Show the contents of PATCH: facts, layers, experts, sizes, norms, base and hash.

    The whole file and its hash are checked first. No model is needed. With --model, each layer's largest
    change is also given as a multiple of the expert that it changes. `atlas` is the demo model.
    """
    from moe_patch.cli.summary import describe_patch, fact_table, summary_tables
    from moe_patch.patch import load

    patch = load(patch_path)
    described = describe_patch(patch, patch_path)
    if model is not None:
        _compare(patch, model, described)
    if as_json:
        print_json(described)
    else:
        print_tables(*summary_tables(described), fact_table(described, None if show_all else SHOWN))


def _compare(patch: Patch, model: str, described: dict[str, Any]) -> None:
    """Add to each layer what its largest change is as a multiple of the expert; refuse another base."""
    from moe_patch.apply.weights.size import edit_sizes
    from moe_patch.checkpoint import open_checkpoint
    from moe_patch.patch import check_base

    checkpoint = open_checkpoint(model, quantised=True)
    with progress_bars() as progress:
        check_base(patch, checkpoint.fingerprint_like(patch.base, progress=progress))
    ratios: dict[int, float] = {}
    for size in edit_sizes(patch, checkpoint.weight):
        ratios[size.layer] = max(ratios.get(size.layer, 0.0), size.ratio)
    for layer in described["layers"]:
        layer["largest_ratio"] = ratios.get(layer["layer"], 0.0)

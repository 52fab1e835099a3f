"""`moe-patch unmerge`: restore a checkpoint from before a merge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from moe_patch.cli.console import print_json, say
from moe_patch.cli.options import FOLDER, json_option, link_option, out_folder_option


@click.command(
    epilog="""\b
Examples:
  moe-patch unmerge qwen3-patched --out qwen3-restored
  moe-patch unmerge qwen3-patched --base Qwen/Qwen3-30B-A3B --out qwen3-restored --json
"""
)
@click.argument("merged", type=FOLDER)
@click.option(
    "--base",
    help="Name or folder of the base to restore from.  [default: stored originals, or the merge's base]",
)
@out_folder_option
@link_option
@json_option
def unmerge(merged: Path, base: str | None, out: Path, link: Any, as_json: bool) -> None:
    """Write the checkpoint from before the last merge into MERGED, equal to the byte.

    Every restored file must have its former SHA-256. MERGED itself does not change.
    """
    from moe_patch.checkpoint import unmerge_checkpoint as run

    record = run(merged, out, base=base, link=link)
    if as_json:
        print_json({"out": str(out), "removed": [patch.hash for patch in record.patches]})
    else:
        files = len(record.rewritten)
        say(f"{out}: removed {len(record.patches)} patches; {files} files restored, equal to the byte.")

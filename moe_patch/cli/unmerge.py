"""`moe-patch unmerge`: restore a checkpoint from before a merge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from moe_patch.cli.console import print_json, say
from moe_patch.cli.model_name import model_or_base_option
from moe_patch.cli.options import FOLDER, json_option, link_option
from moe_patch.cli.output import out_folder_option
from moe_patch.io.wording import counted


@click.command(
    epilog="""\b
Examples:
  moe-patch unmerge qwen3-patched --out qwen3-restored
  moe-patch unmerge qwen3-patched --model Qwen/Qwen3-30B-A3B --out qwen3-restored --json
"""
)
@click.argument("merged", type=FOLDER)
@model_or_base_option(
    "Name or folder of the base to restore from.  [default: stored originals, or the merge's base]"
)
@out_folder_option
@link_option
@json_option
def unmerge(merged: Path, model: str | None, out: Path, link: Any, as_json: bool) -> None:
    """Write the checkpoint from before the last merge into MERGED, equal to the byte.

    Every restored file must have its former SHA-256. MERGED itself does not change.
    """
    from moe_patch.io.files import refuse_existing

    refuse_existing(out)
    from moe_patch.checkpoint import unmerge_checkpoint as run

    record = run(merged, out, base=model, link=link)
    if as_json:
        print_json({"out": str(out), "removed": [patch.hash for patch in record.patches]})
    else:
        patches = counted(len(record.patches), "patch", "patches")
        files = counted(len(record.rewritten), "file")
        say(f"{out}: removed {patches}; {files} restored, equal to the byte.")

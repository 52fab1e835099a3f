"""`moe-patch unmerge`: a merged checkpoint as it was before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from moe_patch.cli.console import print_json
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
    "--base", help="Name or folder of the base to restore from.  [default: originals kept, or the merge's]"
)
@out_folder_option
@link_option
@json_option
def unmerge(merged: Path, base: str | None, out: Path, link: Any, as_json: bool) -> None:
    """Write the files that were there before the last merge into MERGED, to the byte.

    Every restored file is held to the SHA-256 that it had. MERGED itself stays as it is.
    """
    from moe_patch.checkpoint import unmerge_checkpoint as run

    record = run(merged, out, base=base, link=link)
    if as_json:
        print_json({"out": str(out), "removed": [patch.hash for patch in record.patches]})
    else:
        files = len(record.rewritten)
        click.echo(f"{out}: {len(record.patches)} patches out of {files} files, each as it was before.")

"""`moe-patch drop`: a patch without some of its facts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from moe_patch.cli.console import print_json, print_tables, say
from moe_patch.cli.options import FILE, json_option
from moe_patch.cli.output import free_place, out_option
from moe_patch.io.wording import counted


@click.command(
    epilog="""\b
Example:
  moe-patch drop capitals.safetensors --fact france --fact spain -o fewer.safetensors
"""
)
@click.argument("patch_path", metavar="PATCH", type=FILE)
@click.option(
    "--fact", "ids", multiple=True, required=True, metavar="ID", help="Id of a fact to drop; repeatable."
)
@out_option()
@json_option
def drop(patch_path: Path, ids: Sequence[str], out: Path, force: bool, as_json: bool) -> None:
    """Write PATCH without some of its facts. It is solved again from the file; no model is needed."""
    free_place(out, force=force)
    from moe_patch.cli.summary import describe_patch, summary_tables
    from moe_patch.patch import load, save
    from moe_patch.stack import drop_facts as without

    patch = without(load(patch_path), ids)
    save(patch, out)
    described = describe_patch(patch, out)
    if as_json:
        print_json(described | {"patch": str(out), "dropped": list(ids)})
        return
    print_tables(*summary_tables(described))
    say("", f"{out}: {counted(len(patch.facts), 'fact')}, without {', '.join(ids)}")

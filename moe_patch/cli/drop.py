"""`moe-patch drop`: a patch without some of its facts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from moe_patch.cli.console import print_json, print_tables, say
from moe_patch.cli.options import FILE, json_option
from moe_patch.cli.output import check_writable, out_option


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
@out_option
@json_option
def drop(patch_path: Path, ids: Sequence[str], out: Path, as_json: bool) -> None:
    """Write PATCH without some of its facts. It is solved again from the file; no model is needed."""
    from moe_patch.cli.summary import describe_patch, summary_tables
    from moe_patch.patch import load, save
    from moe_patch.stack import drop_facts as without

    out = check_writable(out)
    patch = without(load(patch_path), ids)
    save(patch, out)
    described = describe_patch(patch, out)
    if as_json:
        print_json(described | {"patch": str(out), "dropped": list(ids)})
        return
    print_tables(*summary_tables(described))
    say("", f"{out}: {len(patch.facts)} facts, without {', '.join(ids)}")

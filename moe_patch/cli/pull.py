"""`moe-patch pull`: fetch a patch from the Hub."""

from __future__ import annotations

from pathlib import Path

import click

from moe_patch.cli.console import print_json, say
from moe_patch.cli.options import json_option
from moe_patch.cli.output import free_place, out_option


@click.command(
    epilog="""\b
Examples:
  moe-patch pull hf://my-org/capitals
  moe-patch pull hf://my-org/capitals@v2 --out capitals-v2.safetensors --json
"""
)
@click.argument("reference", metavar="hf://ORG/NAME[@REVISION]")
@out_option("The file to write.  [default: NAME.safetensors]", required=False)
@json_option
def pull(reference: str, out: Path | None, force: bool, as_json: bool) -> None:
    """Fetch a patch from the Hub, with its signature if it has one, and check it.

    OUT.origin.json records the commit of the revision. `moe-patch verify` checks the signature.
    """
    from moe_patch.share.hub import HubReference, read_origin
    from moe_patch.share.hub import pull_patch as run

    name = HubReference.parse(reference).repo.partition("/")[2]
    path = run(reference, free_place(out or Path(f"{name}.safetensors"), force=force))
    origin = read_origin(path)
    if as_json:
        print_json({"patch": str(path), **origin.model_dump(exclude={"format"})})
    else:
        say(f"{path}: {origin.hash} from {origin.pinned}")

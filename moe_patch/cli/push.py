"""`moe-patch push`: publish a patch on the Hub."""

from __future__ import annotations

from pathlib import Path

import click

from moe_patch.cli.console import print_json, say
from moe_patch.cli.options import FILE, json_option


@click.command(
    epilog="""\b
Examples:
  moe-patch push capitals.safetensors hf://my-org/capitals --base-model Qwen/Qwen3-30B-A3B --license mit
  moe-patch eval capitals.safetensors --model Qwen/Qwen3-30B-A3B --json > scores.json
  moe-patch push capitals.safetensors hf://my-org/capitals@v2 --scores scores.json --public --json
"""
)
@click.argument("patch_path", metavar="PATCH", type=FILE)
@click.argument("reference", metavar="hf://ORG/NAME[@BRANCH]")
@click.option("--base-model", help="Name of the base on the Hub, for the model card.")
@click.option(
    "--license",
    "license_id",
    metavar="ID",
    help="Licence of the patch as the Hub names it, such as apache-2.0.  [default: the card says that none "
    "was given]",
)
@click.option(
    "--scores",
    type=FILE,
    help="What `moe-patch eval PATCH --json` printed, for the model card.  [default: how many facts took "
    "when PATCH was built]",
)
@click.option("--public", is_flag=True, help="Make the repository public, if it is new.")
@click.option("--force", is_flag=True, help="Replace a README that somebody wrote by the model card.")
@json_option
def push(
    patch_path: Path,
    reference: str,
    base_model: str | None,
    license_id: str | None,
    scores: Path | None,
    public: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Publish PATCH on the Hub, with a model card, and with its signature if PATCH.sig exists.

    A README that is there and was not written by this command stays, and that is said.

    Needs a token with write access: `hf auth login`, or $HF_TOKEN.
    """
    from moe_patch.share.hub import push_patch as run

    pushed = run(
        patch_path,
        reference,
        base_model=base_model,
        license_id=license_id,
        scores=scores,
        private=not public,
        force=force,
    )
    if as_json:
        print_json({"patch": str(patch_path), "pinned": str(pushed)})
    else:
        say(f"{patch_path}: published as {pushed}")

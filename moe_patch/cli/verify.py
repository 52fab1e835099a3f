"""`moe-patch verify`: check a patch's file, hash, signature, base and edits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_patch.cli.console import print_json, say
from moe_patch.cli.model_name import say_old_name
from moe_patch.cli.options import (
    FILE,
    NumberRange,
    allow_large_option,
    chat_option,
    json_option,
    open_model,
    opening_options,
)
from moe_patch.progress import progress_bars

if TYPE_CHECKING:
    from moe_patch.share.verify import Verification


@click.command(
    epilog="""\b
Examples:
  moe-patch verify capitals.safetensors
  moe-patch verify capitals.safetensors --require-signature --key release-key.pub
  moe-patch verify capitals.safetensors --model ./Qwen3-30B-A3B --no-ask --json
  moe-patch verify capitals.safetensors --model atlas --at-least 95

\b
Exit codes:
  0 sound   10 unreadable     11 altered, not of its hash   12 unsigned
  13 bad signature            14 of another base            15 the edits do not hold
  16 a change is many times as large as its expert
  17 what should stay moves more than the patch says
"""
)
@click.argument("patch_path", metavar="PATCH", type=click.Path(path_type=Path))
@click.option("--model", help="Name or folder of the base: compare fingerprints, and ask the patch's facts.")
@click.option(
    "--ask/--no-ask",
    default=True,
    show_default=True,
    help="Open the base and ask; without it, only the base's files are compared and no weights are loaded.",
)
@click.option("--base", hidden=True)
@click.option(
    "--require-signature", is_flag=True, help="Refuse a patch that is not signed with one of the keys."
)
@click.option(
    "--key",
    "key_paths",
    type=FILE,
    multiple=True,
    help="Trusted Ed25519 public key, in PEM or OpenSSH's format; repeatable.",
)
@click.option(
    "--at-least",
    type=NumberRange(min=0, max=100),
    default=90,
    show_default=True,
    help="Percentage of facts that the model must say.",
)
@chat_option
@allow_large_option
@opening_options
@json_option
def verify(
    patch_path: Path,
    model: str | None,
    ask: bool,
    base: str | None,
    require_signature: bool,
    key_paths: tuple[Path, ...],
    at_least: float,
    chat: bool | None,
    allow_large: bool,
    as_json: bool,
    **opening: Any,
) -> None:
    """Check the file of PATCH, its hash, its signature, its base and, with a model, that its edits hold.

    The first check that fails ends the command. Each has its own exit code. `atlas` as --model is the
    demo model.
    """
    from moe_patch.checkpoint import open_checkpoint
    from moe_patch.patch.signature import read_public_key
    from moe_patch.share.verify import Signers
    from moe_patch.share.verify import verify_patch as run

    if require_signature and not key_paths:
        raise click.UsageError("--require-signature needs at least one --key to trust.")
    if base is not None:
        say_old_name("--base", "--model with --no-ask")
    elif not ask:
        base, model = model, None
    trusted = [read_public_key(path) for path in key_paths]
    with progress_bars() as progress:
        found = run(
            patch_path,
            signers=Signers(trusted, require_signature) if trusted else None,
            checkpoint=(lambda: open_checkpoint(base, quantised=True)) if base is not None else None,
            base=(lambda: open_model(model, **opening)) if model is not None else None,
            at_least=at_least / 100,
            chat=chat,
            allow_large=allow_large,
            progress=progress,
        )
    _report(found, as_json)
    raise click.exceptions.Exit(int(found.verdict))


def _report(found: Verification, as_json: bool) -> None:
    if as_json:
        print_json(found.to_json())
        return
    verdict = found.verdict.name.lower().replace("_", " ")
    say(f"{found.path}: {verdict}" + (f": {found.reason}" if found.reason else ""))
    if found.checked:
        say(f"checked: {', '.join(found.checked)}")
    if found.signed_by:
        say(f"signed by {found.signed_by}")
    if found.largest is not None:
        place = f"layer {found.largest.layer}, expert {found.largest.expert}"
        say(f"largest change: {found.largest.ratio:.3g} times the norm of its expert ({place})")
    if found.held is not None:
        missed = f"; not: {', '.join(found.missed)}" if found.missed else ""
        say(f"facts that the model says: {found.held:.1%}{missed}")
    if found.controls == 0:
        say("controls: none, so nothing measures what should stay")
    if found.fall is not None:
        say(f"what should stay became less likely by {found.fall:.3g} nats a token")

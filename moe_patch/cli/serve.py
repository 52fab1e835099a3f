"""`moe-patch serve`: start a vLLM server whose patches are merged, adapters, or changed while it runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from moe_patch.cli.console import say
from moe_patch.cli.model_name import DEFAULT, say_model
from moe_patch.cli.options import FILE, STREAM, allow_large_option


@click.command(
    epilog="""\b
Examples:
  moe-patch serve --model atlas --stack moe-patch.stack
  moe-patch serve --model atlas --allow /srv/patches --token-file tokens
  MOE_PATCH_AUDIT_FILE=audit.jsonl moe-patch serve --allow /srv/patches -- --port 8001 --enforce-eager
  moe-patch serve --model Qwen/Qwen3-30B-A3B --adapters capitals=capitals-lora,rivers=rivers-lora
"""
)
@click.option("--model", help=f"Name or folder of the base model.  {DEFAULT}")
@click.option(
    "--stack", type=FILE, help="Lock file of a stack; its patches are added to the weights at start."
)
@click.option(
    "--adapters",
    multiple=True,
    metavar="NAME=FOLDER,...",
    help="Adapters from `export --format vllm-lora`; a request chooses one as its model.",
)
@click.option(
    "--allow",
    multiple=True,
    metavar="PLACE",
    help="Folder, hf://organisation or hf://organisation/name that live patches may come from; may be "
    "repeated. The stack's folder is always one.",
)
@click.option(
    "--token-file",
    type=STREAM,
    help="File with the bearer token for live changes, or with a line NAME TOKEN for each who makes them.  "
    "[default: the token in $MOE_PATCH_TOKEN, else one of your own that `moe-patch live` finds]",
)
@click.option("--live/--no-live", default=True, show_default=True, help="Take live changes.")
@allow_large_option
@click.option("--show", is_flag=True, help="Print the command that would run, and stop.")
@click.argument("arguments", metavar="[-- VLLM ARGUMENT...]", nargs=-1, type=click.UNPROCESSED)
def serve(
    model: str | None,
    stack: Path | None,
    adapters: Sequence[str],
    allow: Sequence[str],
    token_file: Path | None,
    live: bool,
    allow_large: bool,
    show: bool,
    arguments: Sequence[str],
) -> None:
    """Start vLLM's OpenAI server for a model and its patches.

    Arguments after -- are passed to `vllm serve` unchanged. `moe-patch live` can change the patches of the
    running server: on this machine it finds server and token by itself; see docs/serving.md.
    """
    import shlex

    from moe_patch.versions import check_vllm

    named = _adapters(adapters)
    check_vllm()  # before torch is imported
    from moe_patch_serving.api.weight_version import Loaded, loaded_from, weight_version
    from moe_patch_serving.launch.command import Serving
    from moe_patch_serving.launch.notes import starting_notes

    if live and not show:
        token_file = token_file or _own_token_file()
    serving = Serving(model, stack, named, allow, token_file, arguments, allow_large, live)
    command, environment = serving.command(), serving.environment()
    if show:
        say(shlex.join(command))
        return
    say_model(model)
    loaded = Loaded() if stack is None else loaded_from(stack)
    say(f"The weights will be {weight_version(loaded, ())}.", err=True)
    say(*starting_notes(command, environment), err=True)
    os.execve(command[0], command, environment)  # so that signals and the exit code are vLLM's own


def _own_token_file() -> Path | None:
    """The file with this user's own token, if none is set in the environment."""
    from moe_patch.errors import ConfigError, OutputError
    from moe_patch.io.state import state_folder
    from moe_patch_serving.api.local import local_token
    from moe_patch_serving.api.tokens import TOKEN, TOKEN_FILE

    if TOKEN in os.environ or TOKEN_FILE in os.environ:
        return None
    try:
        state_folder()
    except ConfigError as error:
        say(f"There is no token, and no place to keep one: {error}", err=True)
        return None
    try:
        own: Path = local_token()
        return own
    except OutputError as error:  # in a container, for example, where the home folder is read-only
        say(f"There is no token, and none can be kept: {error}", err=True)
        return None


def _adapters(texts: Sequence[str]) -> dict[str, Path]:
    """Parse `a=folder,b=folder` into adapters by name."""
    found: dict[str, Path] = {}
    for part in (part for text in texts for part in text.split(",")):
        name, _, folder = part.partition("=")
        if not name or not Path(folder).is_dir() or not folder:
            raise click.BadParameter(f"{part!r}: expected NAME=FOLDER", param_hint="--adapters")
        if name in found:
            raise click.BadParameter(f"{name!r} is named twice", param_hint="--adapters")
        found[name] = Path(folder)
    return found

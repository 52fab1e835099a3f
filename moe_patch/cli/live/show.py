"""The commands that change nothing: `list` and `version`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from moe_patch.cli.console import plain_table, print_json, print_tables, say
from moe_patch.cli.live.options import server_options, servers_of
from moe_patch.cli.options import FILE, json_option
from moe_patch.io.plain_text import plain_text

SHOWN = 3  # facts of each patch without --all


@click.command("list", epilog="\b\nExample:\n  moe-patch live list --url http://localhost:8000 --json")
@click.option("--all", "show_all", is_flag=True, help=f"Show all facts, not only {SHOWN} of each patch.")
@server_options
@json_option
def show(show_all: bool, urls: Sequence[str], token_file: Path | None, as_json: bool) -> None:
    """List the patches of servers and their facts, the lowest first.

    Patches loaded at start are below live ones.
    """
    stacks = [(server.url, server.stack(facts=True)) for server in servers_of(urls, token_file)]
    if as_json:
        print_json({"servers": [{"url": url, **stack} for url, stack in stacks]})
        return
    for url, stack in stacks:
        columns = ("", "patch", "facts", "says", "hash")
        table = plain_table(f"{url}: {stack['version']}", columns, right=("facts",))
        for place, patch in _placed(stack):
            said = _said(patch, None if show_all else SHOWN)
            table.add_row(place, patch["name"], str(patch["facts"]), said, _short(patch["hash"]))
        print_tables(table)


def _placed(stack: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All patches with their places, the lowest first."""
    for patch in stack["loaded"]["members"]:
        yield "loaded", patch
    for number, patch in enumerate(stack["patches"], start=1):
        yield str(number), patch


def _said(patch: Mapping[str, Any], limit: int | None) -> Text:
    """Facts of a patch, one a line, with their answers."""
    facts = patch["said"]
    lines = [plain_text(f"{fact['prompt']} {fact['answer']}") for fact in facts[:limit]]
    left = len(facts) - len(lines)
    return Text("\n".join([*lines, *([f"and {left} more"] if left else [])]))


def _short(digest: str) -> str:
    """The beginning of a hash, which is enough to name the patch."""
    return digest[: len("sha256:") + 12]


@click.command(epilog="\b\nExample:\n  moe-patch live version moe-patch.stack")
@click.argument("stack", type=FILE)
@json_option
def version(stack: Path, as_json: bool) -> None:
    """Print the version of the weights of a server that is started with STACK.

    Readiness probes of a fleet can wait for it: GET /moe_patch/ready?version=...
    """
    from moe_patch_serving.api.weight_version import loaded_from, weight_version

    found = weight_version(loaded_from(stack), ())
    if as_json:
        print_json({"stack": str(stack), "version": found})
    else:
        say(found)

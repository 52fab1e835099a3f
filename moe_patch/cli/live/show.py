"""The commands that change nothing: `list` and `version`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from moe_patch.cli.console import plain_table, print_json, print_tables, say
from moe_patch.cli.live.options import server_options, servers_of
from moe_patch.cli.options import FILE, json_option


@click.command("list", epilog="\b\nExample:\n  moe-patch live list --url http://localhost:8000 --json")
@server_options
@json_option
def show(urls: Sequence[str], token_file: Path | None, as_json: bool) -> None:
    """List the patches of servers, the lowest first. Patches loaded at start are below live ones."""
    stacks = [(server.url, server.stack()) for server in servers_of(urls, token_file)]
    if as_json:
        print_json({"servers": [{"url": url, **stack} for url, stack in stacks]})
        return
    for url, stack in stacks:
        table = plain_table(f"{url}: {stack['version']}", ("", "patch", "facts", "hash"), right=("facts",))
        for digest in stack["loaded"]["patches"]:
            table.add_row("loaded", "", "", digest)
        for number, patch in enumerate(stack["patches"], start=1):
            table.add_row(str(number), patch["name"], str(patch["facts"]), patch["hash"])
        print_tables(table)


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

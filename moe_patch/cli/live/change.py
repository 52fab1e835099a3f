"""The commands that change running servers: `add`, `remove`, `reorder`, `rollback`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_patch.cli.console import plain_table, print_json, print_tables, say
from moe_patch.cli.live.options import server_options, servers_of
from moe_patch.cli.options import NumberRange, allow_large_option, json_option

if TYPE_CHECKING:
    from moe_patch.cli.live.client import LiveClient

unproved_option = click.option(
    "--unproved",
    is_flag=True,
    help="Accept a patch whatever the server says, and one without facts to ask.",
)


@click.command(
    epilog="""\b
Examples:
  moe-patch live add capitals.safetensors --url http://localhost:8000
  moe-patch live add hf://my-org/capitals@v2 --share 0.9 --url http://localhost:8000 --json
"""
)
@click.argument("patch")
@click.option("--position", type=click.IntRange(min=1), help="Place in the order, from 1.  [default: on top]")
@click.option(
    "--facts",
    type=click.IntRange(1, 1024),
    default=16,
    show_default=True,
    help="Ask at most this many facts.",
)
@click.option(
    "--share",
    type=NumberRange(0, 1, min_open=True),
    default=0.5,
    show_default=True,
    help="Share of these facts that the server must say.",
)
@unproved_option
@allow_large_option
@server_options
@json_option
def add(
    patch: str,
    position: int | None,
    facts: int,
    share: float,
    unproved: bool,
    allow_large: bool,
    urls: Sequence[str],
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Add PATCH, a file on the server or hf://ORG/NAME[@REVISION]."""
    where = patch if patch.startswith("hf://") else str(Path(patch).absolute())
    test = {"facts": facts, "share": share, "unproved": unproved}
    _change(urls, token_file, as_json, lambda server: server.add(where, position, test, allow_large))


@click.command(epilog="\b\nExample:\n  moe-patch live remove capitals --url http://localhost:8000")
@click.argument("patch")
@server_options
@json_option
def remove(patch: str, urls: Sequence[str], token_file: Path | None, as_json: bool) -> None:
    """Remove PATCH, given by its name, its hash, or the first eight digits of its hash."""
    _change(urls, token_file, as_json, lambda server: server.remove(patch))


@click.command(epilog="\b\nExample:\n  moe-patch live reorder rivers capitals --url http://localhost:8000")
@click.argument("patches", metavar="PATCH...", nargs=-1, required=True)
@server_options
@json_option
def reorder(patches: Sequence[str], urls: Sequence[str], token_file: Path | None, as_json: bool) -> None:
    """Put the server's live patches into this order, the lowest first. Name all PATCHes."""
    _change(urls, token_file, as_json, lambda server: server.reorder(list(patches)))


@click.command(epilog="\b\nExample:\n  moe-patch live rollback --url http://localhost:8000")
@unproved_option
@server_options
@json_option
def rollback(unproved: bool, urls: Sequence[str], token_file: Path | None, as_json: bool) -> None:
    """Undo the last change. Run it again to undo the change before it."""
    _change(urls, token_file, as_json, lambda server: server.rollback({"unproved": unproved}), undo=False)


def _change(
    urls: Sequence[str],
    token_file: Path | None,
    as_json: bool,
    change: Callable[[LiveClient], dict[str, Any]],
    *,
    undo: bool = True,
) -> None:
    """Change servers one after the other. If one fails, change those before it back."""
    from moe_patch.cli.live.client import ServerError

    done: list[tuple[LiveClient, dict[str, Any]]] = []
    for server in servers_of(urls, token_file):
        try:
            done.append((server, change(server)))
        except ServerError as error:
            for before, _ in reversed(done if undo else []):
                before.rollback({"unproved": True})  # it was on before
                say(f"{before.url} was changed back.", err=True)
            raise error
    _report(done, as_json)


def _report(done: Sequence[tuple[LiveClient, dict[str, Any]]], as_json: bool) -> None:
    if as_json:
        print_json({"servers": [{"url": server.url, **answer} for server, answer in done]})
        return
    columns = ("server", "weights are now", "facts said", "controls", "drained", "requests waited")
    table = plain_table("", columns, right=("facts said",))
    for server, answer in done:
        test, seconds = answer["self_test"], answer["seconds"]
        said = f"{test['right']} of {test['asked']}" if test["asked"] else "none to ask"
        drained, waited = f"{seconds['drain']:.2f} s", f"{seconds['pause']:.2f} s"
        table.add_row(server.url, answer["version"], said, _controls(test["moved"]), drained, waited)
    print_tables(table)


def _controls(moved: Sequence[dict[str, Any]]) -> str:
    """By how much the controls of the added patches fell, where they have any."""
    return ", ".join(f"{one['fall']:.2g} of {one['limit']:.2g} nats" for one in moved) or "none"

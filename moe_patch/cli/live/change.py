"""The commands that change running servers: `add`, `remove`, `reorder`, `rollback`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_patch.cli.console import say
from moe_patch.cli.live.options import server_options, servers_of
from moe_patch.cli.live.report import report_changes, report_refusal
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
@click.option(
    "--allow-conflicts",
    is_flag=True,
    help="Accept facts that contradict those that are on, or that move them or are moved by them.",
)
@server_options
@json_option
def add(
    patch: str,
    position: int | None,
    facts: int,
    share: float,
    unproved: bool,
    allow_large: bool,
    allow_conflicts: bool,
    urls: Sequence[str],
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Add PATCH, a file on the server or hf://ORG/NAME[@REVISION].

    It ends with 3 if its facts conflict with those that are on, with 4 if the server did not say them, and
    with 1 after any other error. The server's weights are then as before.
    """
    where = patch if patch.startswith("hf://") else str(Path(patch).absolute())
    test = {"facts": facts, "share": share, "unproved": unproved}
    allowed = {"allow_large": allow_large, "allow_conflicts": allow_conflicts}
    _change(urls, token_file, as_json, lambda server: server.add(where, position, test, **allowed))


@click.command(epilog="\b\nExample:\n  moe-patch live remove capitals --url http://localhost:8000")
@click.argument("patch")
@server_options
@json_option
def remove(patch: str, urls: Sequence[str], token_file: Path | None, as_json: bool) -> None:
    """Remove PATCH, given by its name, its hash, or the first eight digits of its hash.

    It may be live, or loaded when the server started.
    """
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
            back = []
            for before, _ in reversed(done if undo else []):
                before.rollback({"unproved": True})  # it was on before
                say(f"{before.url} was changed back.", err=True)
                back.append(before.url)
            report_refusal(error, back, as_json=as_json)
    report_changes(done, as_json=as_json)

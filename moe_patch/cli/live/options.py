"""Options that the live commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from moe_patch.cli.options import STREAM

if TYPE_CHECKING:
    from moe_patch.cli.live.client import LiveClient

F = TypeVar("F", bound=Callable[..., Any])


def server_options(command: F) -> F:
    """Add the options that name the servers. `servers_of` takes their values."""
    for option in (
        click.option(
            "--token-file",
            type=STREAM,
            help="File with the token.  [default: $MOE_PATCH_TOKEN, or that of your own server here]",
        ),
        click.option(
            "--url",
            "urls",
            multiple=True,
            envvar="MOE_PATCH_URL",
            show_envvar=True,
            help="A server's address; may be repeated.  [default: your own server on this machine]",
        ),
    ):
        command = option(command)
    return command


def servers_of(urls: Sequence[str], token_file: Path | None) -> list[LiveClient]:
    """The servers that `server_options` describe.

    Raises:
        click.UsageError: no address was given, and not exactly one server of this user runs here.
        ConfigError: the token is malformed.
    """
    from moe_patch.cli.live.client import LiveClient
    from moe_patch_serving.api.local import local_servers
    from moe_patch_serving.api.tokens import TOKEN, TOKEN_FILE, own_token

    environment = dict(os.environ)
    if token_file is not None:
        environment.pop(TOKEN, None)
        environment[TOKEN_FILE] = str(token_file)
    known = local_servers()
    urls = urls or [_only([server.url for server in known])]
    files = {server.url: server.token_file for server in known}
    given = own_token(environment)

    def token_of(url: str) -> str | None:
        """The token that was given, and else the one that a server of this user was started with."""
        file = files.get(url.rstrip("/").replace("//localhost:", "//127.0.0.1:"))
        found: str | None = given if given is not None or file is None else own_token({TOKEN_FILE: file})
        return found

    return [LiveClient(url, token_of(url)) for url in urls]


def _only(urls: Sequence[str]) -> str:
    """The address of the one server that there is."""
    if len(urls) == 1:
        return urls[0]
    found = (
        f"several of your servers run here ({', '.join(urls)})" if urls else "no server of yours runs here"
    )
    raise click.UsageError(f"{found}: give --url, such as --url http://localhost:8000")

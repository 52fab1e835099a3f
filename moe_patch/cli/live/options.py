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
        click.option("--token-file", type=STREAM, help="File with the token.  [default: $MOE_PATCH_TOKEN]"),
        click.option(
            "--url",
            "urls",
            multiple=True,
            required=True,
            envvar="MOE_PATCH_URL",
            show_envvar=True,
            help="A server's address; may be repeated.",
        ),
    ):
        command = option(command)
    return command


def servers_of(urls: Sequence[str], token_file: Path | None) -> list[LiveClient]:
    """The servers that `server_options` describe."""
    from moe_patch.cli.live.client import LiveClient
    from moe_patch_serving.api.settings import TOKEN, TOKEN_FILE, read_token

    environment = dict(os.environ)
    if token_file is not None:
        environment.pop(TOKEN, None)
        environment[TOKEN_FILE] = str(token_file)
    token = read_token(environment)
    return [LiveClient(url, token) for url in urls]

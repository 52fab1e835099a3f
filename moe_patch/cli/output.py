"""`-o`, `--out`: what a command writes, checked before anything is opened, and replaced only if asked."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from moe_patch.cli.options import NEW_FILE
from moe_patch.errors import OutputError

F = TypeVar("F", bound=Callable[..., Any])


def out_option(help_text: str = "The patch to write.", *, required: bool = True) -> Callable[[F], F]:
    """Add `-o`, `--out` for a file, and `--force`. `free_place` checks their values."""

    def add(command: F) -> F:
        out = click.option("-o", "--out", type=NEW_FILE, required=required, help=help_text)
        force = click.option("--force", is_flag=True, help="Replace the file if it is there.")
        return out(force(command))

    return add


out_folder_option = click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder to write; it must not exist yet.",
)


def free_place(path: Path, *, force: bool) -> Path:
    """Check that a file can be written at `path`, and that none is replaced unasked; return the path.

    Raises:
        click.BadParameter: the folder is missing or not writable.
        OutputError: the file exists, and `force` is false.
    """
    check_writable(path)
    if not force and os.path.lexists(path):
        raise OutputError(f"{path} exists already: name another file with --out, or replace it with --force")
    return path


def check_writable(path: Path, option: str = "--out") -> Path:
    """Check that `path` can be written, before the work begins, and return it.

    Raises:
        click.BadParameter: the folder is missing or not writable.
    """
    if not path.parent.is_dir():
        raise click.BadParameter(f"there is no folder {path.parent}", param_hint=option)
    if not os.access(path.parent, os.W_OK):
        raise click.BadParameter(f"the folder {path.parent} is not writable", param_hint=option)
    return path

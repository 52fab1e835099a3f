"""Output files of commands."""

from __future__ import annotations

import os
from pathlib import Path

import click

from moe_patch.cli.options import NEW_FILE

out_option = click.option("-o", "--out", type=NEW_FILE, required=True, help="The patch to write.")


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

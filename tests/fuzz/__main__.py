"""Fuzz at length: `python -m tests.fuzz --files 100000`."""

from __future__ import annotations

import os
import secrets
import shlex
import sys
import tempfile
import time
from pathlib import Path

import click

os.environ["HF_HUB_OFFLINE"] = "1"  # before the import that reads it


@click.command(help=__doc__)
@click.option("--files", default=100_000, show_default=True)
@click.option("--seed", type=int, help="[default: a random one, which is printed]")
@click.option("--only", type=int, help="The number of one file.")
def fuzz_at_length(files: int, seed: int | None, only: int | None) -> None:
    import torch

    from tests.fuzz.files import Originals
    from tests.fuzz.runner import fuzz

    torch.set_num_threads(1)
    seed = secrets.randbelow(2**32) if seed is None else seed
    numbers = range(files) if only is None else range(only, only + 1)
    began, failures = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="moe-patch-fuzz-") as folder:
        os.environ["MOE_PATCH_CACHE"] = f"{folder}/cache"
        originals = Originals(Path(folder, "originals"))
        originals.folder.mkdir()
        originals.write()
        for failure in fuzz(originals, seed, numbers):
            failures += 1
            click.echo(
                f"--seed {seed} --only {failure.number}: {shlex.join(failure.command)}\n{failure.what}\n"
            )
    seconds = time.monotonic() - began
    click.echo(f"seed {seed}: {len(numbers)} files in {seconds:.0f} s, {failures} failures")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    fuzz_at_length()

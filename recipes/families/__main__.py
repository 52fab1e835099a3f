"""The command: `python -m recipes.families --help`."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import click
import torch

from .models import FAMILIES
from .train import train_family


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the models' folders.")
@click.option("--family", "names", type=click.Choice(list(FAMILIES)), multiple=True, help="Only these.")
@click.option("--threads", default=1, show_default=True)
def main(out: Path, names: tuple[str, ...], threads: int) -> None:
    """Train the models, and write each with its facts and its text into OUT/FAMILY."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(threads)
    for name in names or FAMILIES:
        started = time.process_time()
        knows = train_family(FAMILIES[name], out / name)
        shares = ", ".join(f"{share:.1f}% of {what} phrasings" for what, share in knows.items())
        click.echo(f"{out / name}: knows {shares}; {time.process_time() - started:.0f} s of processor time")


if __name__ == "__main__":
    main()

"""Hashing all weights of a checkpoint compared with reading its files.

    python -m recipes.benchmarks.hashing --json

The checkpoint is that of `recipes.benchmarks.merge`. `cat` writes all its files to /dev/null. `hash` is
`moe_patch.checkpoint.Checkpoint.fingerprint` in a process of its own, from the opened checkpoint on. `cold`:
the files were dropped from the system's cache before, by posix_fadvise(POSIX_FADV_DONTNEED). `cached`: they
are in it. `known` is the fingerprint of a checkpoint that was hashed before. Each figure is the best of
several turns, in which all are run one after the other.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from functools import partial
from pathlib import Path

import click

from moe_patch.checkpoint import open_checkpoint

from . import Figures, best_time, print_figures
from .merge import shape_of, synthesize

STATES = ("cold", "cached")


def hash_once(folder: Path) -> Figures:
    """Fingerprint in this process, which does nothing else."""
    checkpoint = open_checkpoint(folder)
    began = time.perf_counter()
    found = checkpoint.fingerprint([])
    return {"seconds": time.perf_counter() - began, "root": found.root}


def drop(files: list[Path]) -> None:
    """Take files out of the system's cache."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def compare_with_cat(folder: Path, scratch: Path, turns: int) -> Figures:
    """The best times of `cat` and of hashing, in turns."""
    files = sorted(folder.glob("*.safetensors"))
    taken: dict[str, list[float]] = defaultdict(list)
    cat = partial(subprocess.run, ["cat", *files], check=True, stdout=subprocess.DEVNULL)
    for turn in range(turns):
        for state in STATES:
            prepare = partial(drop, files) if state == "cold" else bool
            prepare()
            taken[f"{state}_cat"].append(best_time(cat)[0])
            prepare()
            taken[f"{state}_hash"].append(_alone(folder, scratch / state / str(turn)))
        taken["known"].append(_alone(folder, scratch / STATES[0] / str(turn)))
    best = {f"{name}_seconds": min(seconds) for name, seconds in taken.items()}
    ratio = {
        f"{state}_speed_to_cat": best[f"{state}_cat_seconds"] / best[f"{state}_hash_seconds"]
        for state in STATES
    }
    return {
        "bytes": sum(path.stat().st_size for path in files),
        **best,
        **ratio,
    }


def _alone(folder: Path, cache: Path) -> float:
    """Seconds of hashing in a new process."""
    command = [sys.executable, "-m", __spec__.name, "--alone", str(folder)]
    environment = os.environ | {"MOE_PATCH_CACHE": str(cache)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    return float(json.loads(done.stdout)["seconds"])


@click.command(help=__doc__)
@click.option("--gib", default=8.0, show_default=True, help="Size of the checkpoint.")
@click.option("--turns", default=3, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Where to make it all.  [default: temporary]")
@click.option("--json", "as_json", is_flag=True)
@click.option("--alone", type=click.Path(path_type=Path), hidden=True)
def main(gib: float, turns: int, folder: Path | None, as_json: bool, alone: Path | None) -> None:
    """Measure and report."""
    if alone:
        click.echo(json.dumps(hash_once(alone)))
        return
    with tempfile.TemporaryDirectory(dir=folder) as made:
        scratch = Path(made)
        synthesize(scratch / "base", shape_of(gib))
        time.sleep(3)  # hashes of files that changed a moment ago are not kept
        figures: Figures = {"gib": gib}
        figures |= compare_with_cat(scratch / "base", scratch, turns)
    print_figures("hashing a checkpoint", figures, as_json)


if __name__ == "__main__":
    main()

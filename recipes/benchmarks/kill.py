"""Kill changes of a stack, `drop` and `merge` with kill -9 at random points, and check what is left.

    python -m recipes.benchmarks.kill --kills 50 --json

Each turn forks a process that runs the command again and again, and kills it after a random time of at most
--window seconds, so that a kill hits the command and not Python's start. Afterwards the stack must be a whole
revision, with a whole one before it; a patch file and a merged folder must be whole or missing. Kills that
leave files under temporary names are counted, and what is left after one more run, which has to remove them.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import click
import torch

from moe_patch.checkpoint import open_checkpoint, read_record
from moe_patch.cli import main as moe_patch
from moe_patch.patch import Patch, load, save
from moe_patch.stack import read_lock

from . import QWEN3_30B_A3B, Figures, LayerShape, print_figures
from .joint_solve import random_patch

LOCK, OUT, MERGED = Path("moe-patch.stack"), Path("out.safetensors"), Path("merged")
FOR_ATLAS = Path("for-atlas.safetensors")


def kill_at_work(work: Callable[[], None], seconds: float) -> None:
    """Fork a process that repeats `work`, and kill it after `seconds`."""
    child = os.fork()
    while child == 0:
        work()
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WTERMSIG(status) != signal.SIGKILL:
        raise RuntimeError("the command ended by itself")


def move_patch() -> None:
    """Change the stack once."""
    moe_patch(["stack", "move", "1", "3"], standalone_mode=False)


def drop_fact() -> None:
    """Drop a fact from a patch."""
    moe_patch(["drop", "1.safetensors", "--fact", "1-0", "-o", str(OUT), "--force"], standalone_mode=False)


def merge_patch() -> None:
    """Merge a patch into the demo model."""
    gone = Path("gone")
    shutil.rmtree(gone, ignore_errors=True)
    if MERGED.exists():  # in one step: a kill while a folder is removed would leave a part of it
        MERGED.rename(gone)
    moe_patch(["--quiet", "merge", "--patch", str(FOR_ATLAS), "--out", str(MERGED)], standalone_mode=False)


def check_stack() -> None:
    """Raise unless the stack is a whole revision, and so is the one before it."""
    lock = read_lock(LOCK)
    before = read_lock(Path(f"{LOCK}.history") / f"{lock.revision - 1}.toml") if lock.revision else lock
    names = [{entry.path for entry in whole.patch} for whole in (lock, before)]
    if any(found != {"1.safetensors", "2.safetensors", "3.safetensors"} for found in names):
        raise RuntimeError(f"revision {lock.revision} or the one before it is not whole: {names}")
    if lock.revision and before.revision != lock.revision - 1:
        raise RuntimeError(f"revision {lock.revision} cannot be undone: the one before it is missing")


def check_patch() -> None:
    """Raise unless the patch is whole or missing."""
    if OUT.exists():
        load(OUT)


def check_merged() -> None:
    """Raise unless the merged folder is whole or missing."""
    if MERGED.exists() and not (read_record(MERGED).patches and (MERGED / "config.json").exists()):
        raise RuntimeError("the merged folder is not whole")


def leftovers() -> int:
    """How many files and folders are left under temporary names, in the cache too."""
    return sum(path.suffix in (".tmp", ".making") for path in Path().rglob(".*"))


def patch_for_atlas() -> Patch:
    """A small random patch that fits the demo model."""
    checkpoint = open_checkpoint()
    layer, (experts, d_model, d_key) = next(iter(checkpoint.base.shapes.items()))
    patch = random_patch(LayerShape(experts, 2, d_model, d_key), facts=4, layers=1, number=0)
    return replace(patch, base=checkpoint.fingerprint([layer]), layers={layer: patch.layers[0]})


def torture(kills: int, window: float, seed: int, scale: float) -> Figures:
    """Kill both commands, in the current folder."""
    chance = random.Random(seed)
    for number in (1, 2, 3):
        patch = random_patch(QWEN3_30B_A3B.shrunk(scale), facts=20, layers=3, number=number)
        save(patch, f"{number}.safetensors")
    moe_patch(["stack", "init", *(f"{n}.safetensors" for n in (1, 2, 3))], standalone_mode=False)
    save(patch_for_atlas(), FOR_ATLAS)
    figures: Figures = {"window_seconds": window}
    for name, work, check in (
        ("stack", move_patch, check_stack),
        ("drop", drop_fact, check_patch),
        ("merge", merge_patch, check_merged),
    ):
        began = time.perf_counter()
        work()
        figures |= {f"{name}_seconds": time.perf_counter() - began, f"{name}_kills": kills}
        left_by_kills = left_after_a_run = 0
        for _ in range(kills):
            kill_at_work(work, chance.uniform(0.0, window))
            check()
            left_by_kills += leftovers() > 0
            work()
            left_after_a_run += leftovers()
        figures |= {
            f"{name}_kills_that_left_some": left_by_kills,
            f"{name}_left_after_a_run": left_after_a_run,
        }
    return figures | {"stack_revisions": read_lock(LOCK).revision}


@click.command(help=__doc__)
@click.option("--kills", default=50, show_default=True, help="Of each command.")
@click.option("--window", default=0.5, show_default=True, help="Longest time before a kill, in seconds.")
@click.option("--seed", default=0, show_default=True)
@click.option("--shape-scale", default=4.0, show_default=True, help="Divide Qwen3-30B-A3B's widths by this.")
@click.option("--json", "as_json", is_flag=True)
def main(kills: int, window: float, seed: int, shape_scale: float, as_json: bool) -> None:
    """Kill and report."""
    torch.set_num_threads(1)  # threads do not live through a fork
    with (
        tempfile.TemporaryDirectory() as folder,
        chdir(folder),
        Path(os.devnull).open("w") as nothing,
        redirect_stdout(nothing),
        redirect_stderr(nothing),
    ):
        os.environ["MOE_PATCH_CACHE"] = "cache"
        figures = torture(kills, window, seed, shape_scale)
    print_figures("kill -9", figures, as_json)


if __name__ == "__main__":
    main()

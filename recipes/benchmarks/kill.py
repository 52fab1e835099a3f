"""Kill changes of a stack and `drop` with kill -9 at random points, and check what is left.

    python -m recipes.benchmarks.kill --kills 50 --json

Each turn forks a process that runs the command again and again, and kills it after a random time of at most
--window seconds, so that a kill hits the command and not Python's start. Afterwards the stack must be a whole
revision, with a whole one before it, and a patch file must be whole or missing. Files left under temporary
names, which nothing reads, are counted.
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import chdir, redirect_stdout
from pathlib import Path

import click
import torch

from moe_patch.cli import main as moe_patch
from moe_patch.patch import load, save
from moe_patch.stack import read_lock

from . import QWEN3_30B_A3B, Figures, print_figures
from .joint_solve import random_patch

LOCK, OUT = Path("moe-patch.stack"), Path("out.safetensors")


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
    moe_patch(["drop", "1.safetensors", "--fact", "1-0", "-o", str(OUT)], standalone_mode=False)


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


def torture(kills: int, window: float, seed: int, scale: float) -> Figures:
    """Kill both commands, in the current folder."""
    chance = random.Random(seed)
    for number in (1, 2, 3):
        patch = random_patch(QWEN3_30B_A3B.shrunk(scale), facts=20, layers=3, number=number)
        save(patch, f"{number}.safetensors")
    moe_patch(["stack", "init", *(f"{n}.safetensors" for n in (1, 2, 3))], standalone_mode=False)
    figures: Figures = {"window_seconds": window}
    for name, work, check in (("stack", move_patch, check_stack), ("drop", drop_fact, check_patch)):
        began = time.perf_counter()
        work()
        figures |= {f"{name}_seconds": time.perf_counter() - began, f"{name}_kills": kills}
        for _ in range(kills):
            kill_at_work(work, chance.uniform(0.0, window))
            check()
        figures[f"{name}_leftovers"] = sum(1 for _ in Path().rglob("*.tmp"))
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
    ):
        figures = torture(kills, window, seed, shape_scale)
    print_figures("kill -9", figures, as_json)


if __name__ == "__main__":
    main()

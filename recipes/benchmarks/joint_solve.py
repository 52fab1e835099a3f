"""Solve a stack as one problem: 20 patches of 50 facts in 5 layers of Qwen3-30B-A3B's shape.

    python -m recipes.benchmarks.joint_solve --json

The patches are random, and in memory as they would be after reading. The time is that of `moe-patch stack
resolve` without reading and writing files. The check of all pairs, which is part of the command, is timed
separately. Memory is the highest resident size of the whole process, Python and torch included.
"""

from __future__ import annotations

import resource
import sys
from dataclasses import asdict

import click
import torch

from moe_patch.data.facts import Fact
from moe_patch.patch import Fingerprint, LayerDelta, Patch
from moe_patch.solve.algebra import edit_kernel, ridge_solve
from moe_patch.stack import Stacked, combine_patches
from moe_patch.stack.conflicts import find_disturbances

from . import QWEN3_30B_A3B, Figures, LayerShape, best_time, print_figures

RIDGE = 1.0


def random_patch(shape: LayerShape, facts: int, layers: int, number: int) -> Patch:
    """A patch solved for random facts."""
    none = f"sha256:{0:064x}"
    return Patch(
        kind="delta",
        method="random",
        hyperparameters={"layers": list(range(layers))},
        base=Fingerprint(
            "random",
            none,
            none,
            experts=dict.fromkeys(range(layers), none),
            shapes=dict.fromkeys(range(layers), (shape.experts, shape.d_model, shape.d_key)),
        ),
        facts=tuple(Fact(f"{number}-{n}", "{} lies in", f"Town {number}-{n}", "Ys") for n in range(facts)),
        results=(),
        layers={layer: random_delta(shape, facts, seed=1000 * number + layer) for layer in range(layers)},
    )


def random_delta(shape: LayerShape, facts: int, seed: int) -> LayerDelta:
    """One layer's exact solution for random facts."""
    rows, residual = shape.random_facts(facts, seed)
    left = ridge_solve(edit_kernel(rows), residual, RIDGE)
    return LayerDelta.from_solution(left, rows, residual=residual, ridge=RIDGE)


def peak_bytes() -> int:
    """The highest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


@click.command(help=__doc__)
@click.option("--patches", default=20, show_default=True)
@click.option("--facts", default=50, show_default=True, help="Facts in each patch.")
@click.option("--layers", default=5, show_default=True)
@click.option("--shape-scale", default=1.0, show_default=True, help="Divide experts and widths by this.")
@click.option("--json", "as_json", is_flag=True)
def main(patches: int, facts: int, layers: int, shape_scale: float, as_json: bool) -> None:
    """Solve and report."""
    shape = QWEN3_30B_A3B.shrunk(shape_scale)
    stacked = [
        Stacked(f"patch-{number}", random_patch(shape, facts, layers, number), number)
        for number in range(1, patches + 1)
    ]
    before = peak_bytes()
    seconds, combined = best_time(lambda: combine_patches(stacked, "solve"))
    figures: Figures = {
        **asdict(shape),
        "patches": patches,
        "facts": len(combined.patch.facts),
        "layers": layers,
        "threads": torch.get_num_threads(),
        "solve_seconds": seconds,
        "peak_bytes": peak_bytes(),
        "peak_bytes_before": before,
    }
    figures["add_seconds"], _ = best_time(lambda: combine_patches(stacked, "add"))
    figures["check_pairs_seconds"], pairs = best_time(lambda: find_disturbances(stacked))
    figures["pairs"] = len(pairs)
    print_figures("a stack solved as one problem", figures, as_json)


if __name__ == "__main__":
    main()

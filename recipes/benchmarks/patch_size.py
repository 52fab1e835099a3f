"""The size of a patch file compared with the dense deltas that it holds, and how exactly it holds them.

    python -m recipes.benchmarks.patch_size --json

The dense deltas are those of the experts that the facts reach, in the dtype that a figure names. The file is
a whole patch, with facts, residuals and metadata. `optimality` is the residual of the fp64 solution in the
primal normal equations of the experts, relative to lambda D. `relative_error` is the distance between the
deltas read from the file and that solution, in the Frobenius norm.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click
import torch
from torch import Tensor

from moe_patch.data.facts import Fact
from moe_patch.patch import Fingerprint, LayerDelta, Patch, load, save
from moe_patch.patch.rows import Rows
from moe_patch.solve import algebra

from . import QWEN3_30B_A3B, Figures, LayerShape, print_figures

LAYER = 0


def patch_of(shape: LayerShape, rows: Rows, left: Tensor, residual: Tensor, ridge: float) -> Patch:
    """A patch of one layer for a base that does not exist, with facts of ordinary length."""
    nowhere = f"sha256:{'0' * 64}"
    sizes = (shape.experts, shape.d_model, shape.d_key)
    facts = [
        Fact(f"fact-{number}", "The capital of {} is", f"Country {number}", f"City {number}")
        for number in range(rows.num_facts)
    ]
    delta = LayerDelta.from_solution(left, rows, residual=residual, ridge=ridge)
    return Patch(
        kind="delta",
        method="moeedit",
        hyperparameters={"solver": "exact"},
        base=Fingerprint("qwen3_moe", nowhere, nowhere, {LAYER: nowhere}, {LAYER: sizes}),
        facts=tuple(facts),
        results=(),
        layers={LAYER: delta},
    )


def dense_pairs(delta: LayerDelta, left: Tensor, rows: Rows) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Each touched expert's delta (d_m, d_k) in fp32 from the file and in fp64 from the solution."""
    for expert in rows.experts():
        yield (
            expert,
            algebra.expert_delta(delta.left, delta.fact_rows, expert),
            algebra.expert_delta(left, rows, expert),
        )


def measure_patch(shape: LayerShape, facts: int, ridge: float, seed: int, path: Path) -> Figures:
    """Solve, save, load, and compare with the dense deltas one expert at a time."""
    rows, residual = shape.random_facts(facts, seed)
    left = algebra.ridge_solve(algebra.edit_kernel(rows), residual.double(), ridge)  # (T, d_m) fp64
    save(patch_of(shape, rows, left, residual, ridge), path)
    missing = residual.double() - algebra.edit_response(left, rows, rows)  # (T, d_m)
    wrong = gradient = size = 0.0
    for expert, found, exact in dense_pairs(load(path).layers[LAYER], left, rows):
        psi, fact = rows.of(expert)
        wrong += float((found.double() - exact).square().sum())
        gradient += float((missing[fact].T @ psi.double() - ridge * exact).square().sum())
        size += float(exact.square().sum())
    touched = len(rows.experts())
    dense = touched * shape.d_model * shape.d_key
    file = path.stat().st_size
    return {
        **asdict(shape),
        "facts": facts,
        "experts_touched": touched,
        "file_bytes": file,
        "dense_fp32_bytes": 4 * dense,
        "dense_fp32_to_file": 4 * dense / file,
        "dense_bf16_to_file": 2 * dense / file,
        "optimality": math.sqrt(gradient / size) / ridge,
        "relative_error": math.sqrt(wrong / size),
        "fp32_rounding": torch.finfo(torch.float32).eps,
    }


@click.command(help=__doc__)
@click.option("--facts", default=50, show_default=True)
@click.option("--ridge", default=1.0, show_default=True, help="Absolute lambda.")
@click.option("--seed", default=0, show_default=True)
@click.option("--shape-scale", default=1.0, show_default=True, help="Divide experts and widths by this.")
@click.option("--json", "as_json", is_flag=True)
def main(facts: int, ridge: float, seed: int, shape_scale: float, as_json: bool) -> None:
    """Measure and report."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "patch.safetensors"
        figures = measure_patch(QWEN3_30B_A3B.shrunk(shape_scale), facts, ridge, seed, path)
    print_figures("patch file against dense deltas", figures, as_json)


if __name__ == "__main__":
    main()

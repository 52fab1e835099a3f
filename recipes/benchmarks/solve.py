"""The exact solve compared with the textbook block coordinate descent that it replaces, on one layer.

    python -m recipes.benchmarks.solve --json

Both minimise the same objective over the same facts. The textbook algorithm works in primal space: for each
expert, it forms the d_k x d_k normal matrix, factors it, and solves for a dense (d_m, d_k) delta. By default
it has every optimisation that does not change the algorithm. The residual is updated, not summed over all
experts again for each one (--recompute does that, as published implementations do), a Cholesky factorisation
replaces an inverse, and it runs in fp32. The row-space descent that moe-patch offers as `bcd` makes the same
iterates, and is timed too.
"""

from __future__ import annotations

import time
from dataclasses import asdict

import click
import torch
from torch import Tensor

from moe_patch.patch.rows import Rows
from moe_patch.solve import algebra

from . import QWEN3_30B_A3B, Figures, LayerShape, best_time, print_figures


class Textbook:
    """Randomized block coordinate descent on dense deltas."""

    def __init__(
        self, shape: LayerShape, rows: Rows, residual: Tensor, ridge: float, recompute: bool
    ) -> None:
        self.rows, self.residual, self.ridge, self.recompute = rows, residual, ridge, recompute
        self.delta = torch.zeros(shape.experts, shape.d_model, shape.d_key)  # (E, d_m, d_k)
        self.missing = residual.clone()  # (T, d_m)

    def run_pass(self, generator: torch.Generator) -> None:
        """One update of every expert that a fact reaches, in random order."""
        reached = self.rows.experts()
        for index in torch.randperm(len(reached), generator=generator).tolist():
            self.update(reached[index])

    def update(self, expert: int) -> None:
        """Solve the normal equations of one expert for the residual that the others leave."""
        psi, fact = self.rows.of(expert)  # (n, d_k), (n,)
        wanted = self.left_over(expert)[fact]  # (n, d_m)
        normal = psi.T @ psi + self.ridge * torch.eye(psi.shape[1])  # (d_k, d_k)
        updated = torch.cholesky_solve(psi.T @ wanted, torch.linalg.cholesky(normal)).T  # (d_m, d_k)
        self.missing[fact] = wanted - psi @ updated.T
        self.delta[expert] = updated

    def left_over(self, expert: int) -> Tensor:
        """The residual (T, d_m) that the other experts leave."""
        if not self.recompute:
            psi, fact = self.rows.of(expert)
            return self.missing.index_add(0, fact, psi @ self.delta[expert].T)
        left_over = self.residual.clone()
        for other in self.rows.experts():
            if other != expert:
                psi, fact = self.rows.of(other)
                left_over.index_add_(0, fact, psi @ self.delta[other].T, alpha=-1)
        return left_over

    def objective(self) -> float:
        """The objective at the current deltas, computed from scratch."""
        missing = self.residual.double()
        for expert in self.rows.experts():
            psi, fact = self.rows.of(expert)
            missing.index_add_(0, fact, (psi @ self.delta[expert].T).double(), alpha=-1)
        return float(missing.square().sum()) + self.ridge * float(self.delta.double().square().sum())


def compare_solvers(
    shape: LayerShape, facts: int, passes: int, ridge: float, seed: int, recompute: bool
) -> Figures:
    """Time and objective of the three solvers on the same random facts."""
    rows, residual = shape.random_facts(facts, seed)
    seconds, left = best_time(
        lambda: algebra.ridge_solve(algebra.edit_kernel(rows), residual, ridge), repeats=15
    )
    figures: Figures = {
        **asdict(shape),
        "facts": facts,
        "passes": passes,
        "lambda": ridge,
        "threads": torch.get_num_threads(),
        "exact_seconds": seconds,
        "exact_objective": algebra.edit_objective(left, rows, residual, ridge),
    }
    textbook, generator = (
        Textbook(shape, rows, residual, ridge, recompute),
        torch.Generator().manual_seed(seed),
    )
    spent = 0.0
    for number in range(1, passes + 1):
        start = time.perf_counter()
        textbook.run_pass(generator)
        spent += time.perf_counter() - start
        figures[f"textbook_objective_after_{number}"] = textbook.objective()
        click.echo(f"pass {number} of {passes}: {spent:.1f} s", err=True)
    figures["textbook_seconds"] = spent
    figures["textbook_to_exact_time"] = spent / seconds
    generator.manual_seed(seed)
    figures["row_space_seconds"], descent = best_time(
        lambda: algebra.block_coordinate_descent(rows, residual, ridge, passes=passes, generator=generator)
    )
    figures["row_space_objective"] = descent.objectives[-1]
    return figures


@click.command(help=__doc__)
@click.option("--facts", default=50, show_default=True)
@click.option("--passes", default=4, show_default=True, help="Sweeps of the descent over all experts.")
@click.option("--ridge", default=1.0, show_default=True, help="Absolute lambda.")
@click.option("--seed", default=0, show_default=True)
@click.option("--shape-scale", default=1.0, show_default=True, help="Divide experts and widths by this.")
@click.option("--recompute", is_flag=True, help="Sum the residual over all experts again for each update.")
@click.option("--json", "as_json", is_flag=True)
def main(
    facts: int, passes: int, ridge: float, seed: int, shape_scale: float, recompute: bool, as_json: bool
) -> None:
    """Compare and report."""
    shape = QWEN3_30B_A3B.shrunk(shape_scale)
    print_figures(
        "exact solve against block descent",
        compare_solvers(shape, facts, passes, ridge, seed, recompute),
        as_json,
    )


if __name__ == "__main__":
    main()

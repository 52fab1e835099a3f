"""The solvers of one layer's problem that methods share: closed forms, and MoEEdit's descent."""

from __future__ import annotations

import torch
from pydantic import Field

from moe_patch.methods.delta import DeltaOptions
from moe_patch.methods.layer_edit import LayerProblem, LayerSolution, LayerSolver
from moe_patch.solve.algebra import block_coordinate_descent, ridge_solve, ridge_value
from moe_patch.solve.naive import solve_each_expert, solve_stacked


class DescentOptions(DeltaOptions):
    """Options of methods that can solve by block coordinate descent."""

    passes: int = Field(4, ge=1, description="Passes of the block coordinate descent over all experts.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the order of its blocks.")


def exact_solver(options: DeltaOptions) -> LayerSolver:
    """The closed form, in the space of facts."""

    def solve(problem: LayerProblem) -> LayerSolution:
        kernel = problem.kernel()  # (T, T)
        ridge = ridge_value(kernel, options.ridge, options.ridge_relative)
        return LayerSolution(ridge_solve(kernel, problem.residual, ridge), ridge)

    return solve


def stacked_solver(options: DeltaOptions) -> LayerSolver:
    """The naive closed form: the normal equations of all experts' keys, stacked."""

    def solve(problem: LayerProblem) -> LayerSolution:
        ridge = ridge_value(problem.kernel(), options.ridge, options.ridge_relative)
        return LayerSolution(solve_stacked(problem.rows, problem.residual, ridge), ridge)

    return solve


def expert_by_expert(options: DeltaOptions) -> LayerSolver:
    """Each expert's own least squares, for the whole residual, as if no other expert were there."""

    def solve(problem: LayerProblem) -> LayerSolution:
        ridge = ridge_value(problem.kernel(), options.ridge, options.ridge_relative)
        left = solve_each_expert(problem.rows, problem.residual, ridge)
        return LayerSolution(left, ridge, per_row=True)

    return solve


def by_descent(options: DescentOptions) -> LayerSolver:
    """MoEEdit's randomized block coordinate descent; one stream of random orders lasts for a whole build."""
    generator = torch.Generator().manual_seed(options.seed)

    def solve(problem: LayerProblem) -> LayerSolution:
        ridge = ridge_value(problem.kernel(), options.ridge, options.ridge_relative)
        descent = block_coordinate_descent(
            problem.rows, problem.residual, ridge, passes=options.passes, generator=generator
        )
        return LayerSolution(descent.left, ridge, per_row=True, objectives=descent.objectives)

    return solve

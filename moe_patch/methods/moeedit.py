"""MoEEdit (ICLR 2026, arXiv 2602.10965): per-expert projections, and least squares over a layer's experts.

    minimise  sum_t || r_t - sum_j g_tj D_j P_j k_tj ||^2  +  lambda sum_j || D_j ||_F^2

The paper solves it by randomized block coordinate descent over the experts (`solver: bcd`). The problem has a
closed form in the space of facts, which is exact and far cheaper (`solver: exact`, the default); see
`moe_patch.algebra`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field

from moe_patch.algebra import block_coordinate_descent, kernel, ridge_solve, ridge_value
from moe_patch.facts import Fact
from moe_patch.methods.base import Method
from moe_patch.methods.beneath import Beneath
from moe_patch.methods.delta import DeltaOptions, build_delta_patch
from moe_patch.methods.layer_edit import LayerProblem, LayerSolution, LayerSolver
from moe_patch.model import Base
from moe_patch.patch import Patch
from moe_patch.progress import Progress


class MoEEditOptions(DeltaOptions):
    """Options of MoEEdit. Defaults are the paper's, but for the solver."""

    solver: Literal["exact", "bcd"] = Field(
        "exact", description="Closed form, or the paper's block coordinate descent."
    )
    passes: int = Field(4, ge=1, description="Passes of the block coordinate descent over all experts.")
    seed: int = Field(0, description="Seed of the order of its blocks.")


class MoEEdit(Method[MoEEditOptions]):
    """The method, in the registry as `moeedit`."""

    name = "moeedit"
    pretty_name = "MoEEdit"
    Options = MoEEditOptions

    @classmethod
    def reference_url(cls) -> str:
        """The paper on arXiv."""
        return "https://arxiv.org/abs/2602.10965"

    def build(
        self, base: Base, facts: Sequence[Fact], options: MoEEditOptions, progress: Progress | None = None
    ) -> Patch:
        """Build a patch; `moe_patch.methods.delta.build_with_editor` says what can go wrong."""
        return build_delta_patch(self.name, base, facts, options, _solver(options), progress)

    def build_on(
        self,
        base: Base,
        facts: Sequence[Fact],
        options: MoEEditOptions,
        beneath: Beneath,
        progress: Progress | None = None,
    ) -> Patch:
        """Build on top of a stack; raises as `build` does, and PatchError if the stack lacks its rows."""
        return build_delta_patch(self.name, base, facts, options, _solver(options), progress, beneath)


def _solver(options: MoEEditOptions) -> LayerSolver:
    """The exact solve or the descent, as the options say."""
    generator = torch.Generator().manual_seed(options.seed)

    def solve(problem: LayerProblem) -> LayerSolution:
        gram = kernel(problem.rows)  # (T, T)
        ridge = ridge_value(gram, options.ridge, options.ridge_relative)
        if options.solver == "exact":
            return LayerSolution(ridge_solve(gram, problem.residual, ridge), ridge)
        descent = block_coordinate_descent(
            problem.rows, problem.residual, ridge, passes=options.passes, generator=generator
        )
        return LayerSolution(descent.left, ridge, per_row=True, objectives=descent.objectives)

    return solve

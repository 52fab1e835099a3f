"""MoTE's naive relatives: solve once at the last layer, and give the layers below copies of its delta.

arXiv 2605.16686 compares itself with them as "Global + speedup" (the exact solve, here `woodbury-spread`) and
"BCD + speedup" (MoEEdit's block coordinate descent, here `bcd-spread`). Nothing but the division by L - l + 1
and each layer's own projection tells the copies apart, although expert j of one layer has nothing to do with
expert j of another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import Field, JsonValue
from torch import Tensor

from moe_patch.algebra import Rows, block_coordinate_descent, kernel, ridge_solve, ridge_value
from moe_patch.facts import Fact
from moe_patch.methods.base import Method
from moe_patch.methods.beneath import Beneath
from moe_patch.methods.delta import DeltaOptions, Ground, build_with_editor
from moe_patch.methods.layer_edit import LayerProblem, LayerSolution, LayerSolver
from moe_patch.methods.measure import projected
from moe_patch.methods.spread_edit import SpreadEditor
from moe_patch.model import Base
from moe_patch.nullspace import NullSpace
from moe_patch.patch import LayerDelta, Patch
from moe_patch.progress import Progress


@dataclass(frozen=True, slots=True)
class CopySpreader:
    """Solves in the coordinates of the keys themselves, and copies."""

    solver: LayerSolver
    last: int
    projections: Mapping[int, NullSpace]

    def rows(self, rows: Rows) -> Rows:
        """The rows as they are."""
        return rows

    def residual(self, residual: Tensor) -> Tensor:
        """The residuals as they are."""
        return residual

    def reached(self, residual: Tensor) -> Tensor:
        """All of them."""
        return residual

    def __call__(self, problem: LayerProblem) -> LayerSolution:
        """As the solver does."""
        return self.solver(problem)

    def spread(self, solution: LayerDelta, layer: int) -> tuple[Tensor, Rows]:
        """The solution, with rows projected as the layer wants them."""
        rows = Rows(solution.right, solution.expert.long(), solution.fact.long(), len(solution.left))
        if layer == self.last or layer not in self.projections:
            return solution.left, rows
        return solution.left, projected(rows, self.projections[layer])

    def findings(self) -> dict[str, JsonValue]:
        """Nothing."""
        return {}


def build_copying(
    method: str,
    base: Base,
    facts: Sequence[Fact],
    options: DeltaOptions,
    solver: LayerSolver,
    progress: Progress | None,
    beneath: Beneath | None = None,
) -> Patch:
    """Build a patch that solves at the last layer and copies; raises as `build_with_editor` does."""

    def copying(ground: Ground) -> SpreadEditor:
        spreader = CopySpreader(solver, ground.layers[-1], ground.projections)
        return SpreadEditor(
            base, ground.layers, spreader, ground.projections, protect_earlier=options.protect_earlier
        )

    return build_with_editor(method, base, facts, options, copying, progress, beneath)


class WoodburySpreadOptions(DeltaOptions):
    """Options of the exact solve, spread."""


class WoodburySpread(Method[WoodburySpreadOptions]):
    """The exact solve at the last layer, copied downwards: in the registry as `woodbury-spread`."""

    name = "woodbury-spread"
    pretty_name = "Woodbury, spread"
    Options = WoodburySpreadOptions

    @classmethod
    def reference_url(cls) -> str:
        """The paper on arXiv."""
        return "https://arxiv.org/abs/2605.16686"

    def build(
        self,
        base: Base,
        facts: Sequence[Fact],
        options: WoodburySpreadOptions,
        progress: Progress | None = None,
    ) -> Patch:
        """Build a patch; `moe_patch.methods.delta.build_with_editor` says what can go wrong."""
        return build_copying(self.name, base, facts, options, _exact(options), progress)

    def build_on(
        self,
        base: Base,
        facts: Sequence[Fact],
        options: WoodburySpreadOptions,
        beneath: Beneath,
        progress: Progress | None = None,
    ) -> Patch:
        """Build on top of a stack, whose facts are protected at the last edit layer."""
        return build_copying(self.name, base, facts, options, _exact(options), progress, beneath)


def _exact(options: DeltaOptions) -> LayerSolver:
    def solve(problem: LayerProblem) -> LayerSolution:
        gram = kernel(problem.rows)  # (T, T)
        ridge = ridge_value(gram, options.ridge, options.ridge_relative)
        return LayerSolution(ridge_solve(gram, problem.residual, ridge), ridge)

    return solve


class BcdSpreadOptions(DeltaOptions):
    """Options of the block coordinate descent, spread."""

    passes: int = Field(4, ge=1, description="Passes of the block coordinate descent over all experts.")
    seed: int = Field(0, description="Seed of the order of its blocks.")


class BcdSpread(Method[BcdSpreadOptions]):
    """MoEEdit's descent at the last layer, copied downwards: in the registry as `bcd-spread`."""

    name = "bcd-spread"
    pretty_name = "BCD, spread"
    Options = BcdSpreadOptions

    @classmethod
    def reference_url(cls) -> str:
        """The paper on arXiv."""
        return "https://arxiv.org/abs/2605.16686"

    def build(
        self, base: Base, facts: Sequence[Fact], options: BcdSpreadOptions, progress: Progress | None = None
    ) -> Patch:
        """Build a patch; `moe_patch.methods.delta.build_with_editor` says what can go wrong."""
        return build_copying(self.name, base, facts, options, _by_descent(options), progress)

    def build_on(
        self,
        base: Base,
        facts: Sequence[Fact],
        options: BcdSpreadOptions,
        beneath: Beneath,
        progress: Progress | None = None,
    ) -> Patch:
        """Build on top of a stack, whose facts are protected at the last edit layer."""
        return build_copying(self.name, base, facts, options, _by_descent(options), progress, beneath)


def _by_descent(options: BcdSpreadOptions) -> LayerSolver:
    generator = torch.Generator().manual_seed(options.seed)

    def solve(problem: LayerProblem) -> LayerSolution:
        ridge = ridge_value(kernel(problem.rows), options.ridge, options.ridge_relative)
        descent = block_coordinate_descent(
            problem.rows, problem.residual, ridge, passes=options.passes, generator=generator
        )
        return LayerSolution(descent.left, ridge, per_row=True, objectives=descent.objectives)

    return solve

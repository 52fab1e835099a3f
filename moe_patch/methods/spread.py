"""MoTE's naive relatives: solve once at the last layer, and give the layers below copies of its delta.

They are baselines of arXiv 2605.16686: "Global + speedup" (the exact solve, here `woodbury-spread`) and
"BCD + speedup" (MoEEdit's block coordinate descent, here `bcd-spread`). The copies differ only in the
division by L - l + 1 and in each layer's own projection, although expert j of one layer has nothing to do
with expert j of another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue
from torch import Tensor

from moe_patch.base.keys import project_rows
from moe_patch.methods.delta import DeltaMethod, DeltaOptions, EditSetup
from moe_patch.methods.layer_edit import LayerProblem, LayerSolution, LayerSolver
from moe_patch.methods.solvers import DescentOptions, by_descent, exact_solver
from moe_patch.methods.spread_edit import SpreadEditor
from moe_patch.patch import LayerDelta
from moe_patch.patch.rows import Rows
from moe_patch.progress import Progress
from moe_patch.solve.nullspace import NullSpace


@dataclass(frozen=True, slots=True)
class CopySpreader:
    """Solves for the keys as they are, and copies the solution to the other layers."""

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
        """The residuals as they are: all can be reached."""
        return residual

    def __call__(self, problem: LayerProblem) -> LayerSolution:
        """The solver's solution."""
        return self.solver(problem)

    def spread(self, solution: LayerDelta, layer: int) -> tuple[Tensor, Rows]:
        """The solution, with rows projected by the layer's own projection."""
        if layer == self.last or layer not in self.projections:
            return solution.left, solution.rows
        return solution.left, project_rows(solution.rows, self.projections[layer])

    def findings(self) -> dict[str, JsonValue]:
        """No entries."""
        return {}


def copying_editor(setup: EditSetup, options: DeltaOptions, solver: LayerSolver) -> SpreadEditor:
    """An editor that solves at the last layer and copies."""
    spreader = CopySpreader(solver, setup.layers[-1], setup.projections)
    return SpreadEditor(setup.base, setup.layers, spreader, setup.projections, options.rules)


class WoodburySpreadOptions(DeltaOptions):
    """Options of `woodbury-spread`."""


class WoodburySpread(DeltaMethod[WoodburySpreadOptions]):
    """The exact solve at the last layer, copied downwards: in the registry as `woodbury-spread`."""

    name = "woodbury-spread"
    pretty_name = "Woodbury, spread"
    changes = "down projections of several layers, from one solve"
    Options = WoodburySpreadOptions

    @classmethod
    def reference_url(cls) -> str:
        """The paper on arXiv."""
        return "https://arxiv.org/abs/2605.16686"

    def editor(
        self, setup: EditSetup, options: WoodburySpreadOptions, progress: Progress | None
    ) -> SpreadEditor:
        """An editor that uses the closed form at the last layer."""
        return copying_editor(setup, options, exact_solver(options))


class BcdSpreadOptions(DescentOptions):
    """Options of `bcd-spread`."""


class BcdSpread(DeltaMethod[BcdSpreadOptions]):
    """MoEEdit's descent at the last layer, copied downwards: in the registry as `bcd-spread`."""

    name = "bcd-spread"
    pretty_name = "BCD, spread"
    changes = "down projections of several layers, from one solve"
    Options = BcdSpreadOptions

    @classmethod
    def reference_url(cls) -> str:
        """The paper on arXiv."""
        return "https://arxiv.org/abs/2605.16686"

    def editor(self, setup: EditSetup, options: BcdSpreadOptions, progress: Progress | None) -> SpreadEditor:
        """An editor that uses the descent at the last layer."""
        return copying_editor(setup, options, by_descent(options))

"""MoEEdit (ICLR 2026, arXiv 2602.10965): per-expert projections, and least squares over a layer's experts.

    minimise  sum_t || r_t - sum_j g_tj D_j P_j k_tj ||^2  +  lambda sum_j || D_j ||_F^2

The paper solves it by randomized block coordinate descent over the experts (`solver: bcd`). The problem has a
closed form in the space of facts, which is exact and far cheaper (`solver: exact`, the default); see
`moe_patch.solve.algebra`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from moe_patch.methods.delta import DeltaMethod, EditSetup
from moe_patch.methods.editors import LayerByLayer
from moe_patch.methods.solvers import DescentOptions, by_descent, exact_solver
from moe_patch.progress import Progress


class MoEEditOptions(DescentOptions):
    """Options of MoEEdit."""

    solver: Literal["exact", "bcd"] = Field(
        "exact", description="Closed form, or the paper's block coordinate descent."
    )


class MoEEdit(DeltaMethod[MoEEditOptions]):
    """The method, in the registry as `moeedit`."""

    name = "moeedit"
    pretty_name = "MoEEdit"
    changes = "down projections, layer by layer"
    Options = MoEEditOptions

    @classmethod
    def reference_url(cls) -> str:
        """The paper on arXiv."""
        return "https://arxiv.org/abs/2602.10965"

    def editor(self, setup: EditSetup, options: MoEEditOptions, progress: Progress | None) -> LayerByLayer:
        """An editor that solves every layer in turn, with the solver that the options name."""
        solver = exact_solver(options) if options.solver == "exact" else by_descent(options)
        return LayerByLayer(
            setup.base, setup.layers, solver, setup.projections, protect_earlier=options.protect_earlier
        )

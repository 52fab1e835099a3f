"""MoEEdit (ICLR 2026, arXiv 2602.10965): per-expert projections, and least squares over a layer's experts.

    minimise  sum_t || r_t - sum_j g_tj D_j P_j k_tj ||^2  +  lambda sum_j || D_j ||_F^2

The paper solves it by randomized block coordinate descent over the experts (`solver: bcd`). The problem has
a closed form in the space of facts, which is exact and far cheaper (`solver: exact`, the default); see
`moe_patch.solve.algebra`. Two more are there to compare with. `stacked` is the naive closed form, which
stacks the keys of all experts and inverts a matrix as wide as they are together. `by-expert` solves each
expert as if it were alone, and so asks too much of all together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from pydantic import Field

from moe_patch.methods.delta import DeltaMethod, EditSetup
from moe_patch.methods.edit_rules import EditRules, ResidualAt
from moe_patch.methods.editors import LayerByLayer
from moe_patch.methods.layer_edit import LayerSolver
from moe_patch.methods.solvers import (
    DescentOptions,
    by_descent,
    exact_solver,
    expert_by_expert,
    stacked_solver,
)
from moe_patch.progress import Progress


class MoEEditOptions(DescentOptions):
    """Options of MoEEdit."""

    solver: Literal["exact", "bcd", "stacked", "by-expert"] = Field(
        "exact",
        description="Closed form in the space of facts, or the paper's block coordinate descent; to compare "
        "with: the naive closed form on all experts' stacked keys, or each expert solved alone.",
    )
    residual_at: ResidualAt = Field(
        "last",
        description="The stream that is compared with the target value: after the last edit layer, or, as in "
        "the paper's public code, after the layer's own.",
    )

    @property
    def rules(self) -> EditRules:
        """What the shared editors are told."""
        return replace(super().rules, residual_at=self.residual_at)


SOLVERS: dict[str, Callable[[MoEEditOptions], LayerSolver]] = {
    "exact": exact_solver,
    "bcd": by_descent,
    "stacked": stacked_solver,
    "by-expert": expert_by_expert,
}


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
        solver = SOLVERS[options.solver](options)
        return LayerByLayer(setup.base, setup.layers, solver, setup.projections, options.rules)

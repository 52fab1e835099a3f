"""AlphaEdit (arXiv 2410.02355): edits in the null space of preserved keys, with the keys of earlier edits.

    D = R K^T P (K_p K_p^T P + K K^T P + L2 I)^-1

for one matrix, with one projector P and the keys K_p of all earlier batches. Here K are the facts' rows
over all experts of a layer, and P is the same for each expert, from the keys of all of them together: what
MoEEdit's projection by expert is compared with. The history is this project's protection of earlier
batches: their rows join each later problem with a residual of zero, whose part in the normal equations is
K_p K_p^T.

The threshold, 0.02, and L2, 10, are published for all its models (the paper's formula has L2 = 1). Both are
in the square of the keys' unit, and mean something else for an expert's. By default the projector holds a
share of the keys' energy and L2 is a share of the facts' own kernel, as in this project's methods;
`--recipe as-published` has the published numbers and search. Departure: a batch's keys are kept as they
were when it was solved, and not measured again after its edit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from moe_patch.methods.delta import DeltaMethod, DeltaOptions, EditSetup, null_space_projections
from moe_patch.methods.edit_rules import EditRules
from moe_patch.methods.editors import LayerByLayer
from moe_patch.methods.solvers import exact_solver
from moe_patch.progress import Progress
from moe_patch.solve.moments import Moments
from moe_patch.solve.nullspace import NullSpace, shared_null_space


class AlphaEditOptions(DeltaOptions):
    """Options of AlphaEdit; `protect_earlier` is its history, and `ridge` its L2."""

    @property
    def rules(self) -> EditRules:
        """Earlier facts are part of the history only."""
        return replace(super().rules, move_earlier=False)


class AlphaEdit(DeltaMethod[AlphaEditOptions]):
    """The method, in the registry as `alphaedit`."""

    name = "alphaedit"
    pretty_name = "AlphaEdit"
    changes = "down projections, layer by layer"
    rival = True
    Options = AlphaEditOptions

    @classmethod
    def reference_url(cls) -> str:
        """The paper on arXiv."""
        return "https://arxiv.org/abs/2410.02355"

    def projections(self, moments: Mapping[int, Moments], options: AlphaEditOptions) -> dict[int, NullSpace]:
        """One projection for all experts of a layer; empty if the options turn projection off.

        Raises:
            StatisticsError: the text is too short for the choice of `unseen`.
        """
        return null_space_projections(moments, options, shared_null_space)

    def editor(self, setup: EditSetup, options: AlphaEditOptions, progress: Progress | None) -> LayerByLayer:
        """An editor that solves every layer in turn in closed form."""
        return LayerByLayer(setup.base, setup.layers, exact_solver(options), setup.projections, options.rules)

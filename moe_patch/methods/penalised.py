"""MoEEdit with a penalty in place of its projection: what preserved text uses is dear, and not forbidden.

    minimise  sum_t || r_t - sum_j g_tj D_j k_tj ||^2  +  lambda sum_j tr(D_j (C_j + epsilon c_j I) D_j^T)

C_j is the second moment of expert j's preserved keys and c_j its mean diagonal. A projection forbids the
leading directions of C_j and leaves all others free alike. Here each costs what text uses of it: a fact whose
key lies within the used directions is still edited, and of the others the least used are taken first. The
penalty is MEMIT's, by expert (`moe_patch.solve.covariance`). Batches, layers, shares and the protection of
earlier batches are MoEEdit's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import Field

from moe_patch.methods.delta import DeltaMethod, DeltaOptions, EditSetup, warn_of_unseen
from moe_patch.methods.editors import LayerByLayer
from moe_patch.methods.solvers import exact_solver
from moe_patch.progress import Progress
from moe_patch.solve.covariance import CovarianceWeighting
from moe_patch.solve.moments import Moments
from moe_patch.solve.nullspace import NullSpace, unprojected


class PenalisedOptions(DeltaOptions):
    """Options of methods with the penalty."""

    projection: bool = Field(
        False, description="Also project keys away from directions that preserved text uses."
    )
    epsilon: float = Field(1e-3, gt=0, description="Added to each moment's diagonal, as a share of its mean.")

    @property
    def needs_text(self) -> bool:
        """Preserved text is always used."""
        return True


PenalisedOptionsT = TypeVar("PenalisedOptionsT", bound=PenalisedOptions)


class PenalisedMethod(DeltaMethod[PenalisedOptionsT]):
    """A method whose rows are weighted by inverse moments."""

    changes = "down projections, layer by layer"

    def projections(self, moments: Mapping[int, Moments], options: PenalisedOptionsT) -> dict[int, NullSpace]:
        """By default, none but of experts without enough text.

        Raises:
            StatisticsError: the text is too short for the choice of `unseen`.
        """
        if options.projection:
            return super().projections(moments, options)
        found = {
            layer: unprojected(seen, unseen=options.unseen, min_tokens=options.min_tokens)
            for layer, seen in moments.items()
        }
        warn_of_unseen(found, options)
        return found

    def editor(self, setup: EditSetup, options: PenalisedOptionsT, progress: Progress | None) -> LayerByLayer:
        """An editor that solves every layer in turn, with rows weighted by inverse moments on the right."""
        weightings = {
            layer: CovarianceWeighting(seen, epsilon=options.epsilon, min_tokens=options.min_tokens)
            for layer, seen in setup.moments.items()
        }
        solver = exact_solver(options)
        return LayerByLayer(setup.base, setup.layers, solver, setup.projections, options.rules, weightings)


class PenalisedMoEEdit(PenalisedMethod[PenalisedOptions]):
    """The method, in the registry as `moeedit-penalty`."""

    name = "moeedit-penalty"
    pretty_name = "MoEEdit, penalty"
    Options = PenalisedOptions

    @classmethod
    def reference_url(cls) -> str:
        """Where the paper of the penalty is; the rest is MoEEdit's."""
        return "https://arxiv.org/abs/2210.07229"

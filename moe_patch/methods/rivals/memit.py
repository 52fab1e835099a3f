"""MEMIT (arXiv 2210.07229): least squares against the covariance of preserved keys, layer by layer.

MEMIT edits the down projection of each layer's one feed-forward block. Here a layer's experts are solved
together, each with the second moment of its own preserved keys; see `moe_patch.solve.covariance`.

lambda is published as 15,000 for GPT-J and Llama3-8B and 20,000 for GPT2-XL, which is about one for each
coordinate of a key. An expert's keys are narrower and its outputs are gated, so that 15,000 would forbid
nearly all change. By default lambda is a share of the facts' own kernel, as in this project's methods;
`--recipe as-published` has 15,000 and the published search. Departures: an expert that hardly any preserved
text reaches has no moment to speak of, and is left alone unless `unseen` says otherwise; epsilon, without
which the moment of a small text has no inverse.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from moe_patch.methods.delta import DeltaMethod, DeltaOptions, EditSetup, warn_of_unseen
from moe_patch.methods.editors import LayerByLayer
from moe_patch.methods.layer_edit import LayerProblem, LayerSolution, LayerSolver
from moe_patch.progress import Progress
from moe_patch.solve.algebra import edit_kernel, ridge_solve, ridge_value
from moe_patch.solve.covariance import CovarianceWeighting
from moe_patch.solve.moments import Moments
from moe_patch.solve.nullspace import NullSpace, unprojected
from moe_patch.solve.whitening import EPSILON_SHARE


class MEMITOptions(DeltaOptions):
    """Options of MEMIT."""

    protect_earlier: bool = Field(
        False, description="Keep the facts of earlier batches while a batch is solved."
    )
    projection: bool = Field(False, description="Project keys away from directions that preserved text uses.")
    epsilon: float = Field(
        EPSILON_SHARE, gt=0, description="Added to each moment's diagonal, as a share of its mean."
    )

    @property
    def needs_text(self) -> bool:
        """Preserved text is always used."""
        return True


class MEMIT(DeltaMethod[MEMITOptions]):
    """The method, in the registry as `memit`."""

    name = "memit"
    pretty_name = "MEMIT"
    changes = "down projections, layer by layer"
    rival = True
    Options = MEMITOptions

    @classmethod
    def reference_url(cls) -> str:
        """The paper on arXiv."""
        return "https://arxiv.org/abs/2210.07229"

    def projections(self, moments: Mapping[int, Moments], options: MEMITOptions) -> dict[int, NullSpace]:
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

    def editor(self, setup: EditSetup, options: MEMITOptions, progress: Progress | None) -> LayerByLayer:
        """An editor that solves every layer in turn, with rows weighted by inverse moments on the right."""
        weightings = {
            layer: CovarianceWeighting(seen, epsilon=options.epsilon, min_tokens=options.min_tokens)
            for layer, seen in setup.moments.items()
        }
        solver = weighted_solver(options, weightings)
        return LayerByLayer(setup.base, setup.layers, solver, setup.projections, options.rules, weightings)


def weighted_solver(options: DeltaOptions, weightings: Mapping[int, CovarianceWeighting]) -> LayerSolver:
    """The closed form, in the space of facts, with each layer's weighting."""

    def solve(problem: LayerProblem) -> LayerSolution:
        gram = edit_kernel(problem.rows, weightings[problem.layer](problem.rows))  # (T, T)
        gram = (gram + gram.T) / 2  # exact but for rounding
        ridge = ridge_value(gram, options.ridge, options.ridge_relative)
        return LayerSolution(ridge_solve(gram, problem.residual, ridge), ridge)

    return solve

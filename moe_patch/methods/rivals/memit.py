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

from pydantic import Field

from moe_patch.methods.penalised import PenalisedMethod, PenalisedOptions
from moe_patch.solve.whitening import EPSILON_SHARE


class MEMITOptions(PenalisedOptions):
    """Options of MEMIT."""

    protect_earlier: bool = Field(
        False, description="Keep the facts of earlier batches while a batch is solved."
    )
    epsilon: float = Field(
        EPSILON_SHARE, gt=0, description="Added to each moment's diagonal, as a share of its mean."
    )


class MEMIT(PenalisedMethod[MEMITOptions]):
    """The method, in the registry as `memit`."""

    name = "memit"
    pretty_name = "MEMIT"
    rival = True
    Options = MEMITOptions

    @classmethod
    def reference_url(cls) -> str:
        """The paper on arXiv."""
        return "https://arxiv.org/abs/2210.07229"

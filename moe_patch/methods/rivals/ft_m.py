"""FT-M: fine-tuning on the tokens of the answer alone, each predicted from all that is before it.

As Zhang et al. have it (arXiv 2401.01286, whose EasyEdit calls this the objective `target_new`): no bound,
and rate and steps as in FT.
"""

from __future__ import annotations

from pydantic import Field

from moe_patch.methods.rivals.examples import LossOn
from moe_patch.methods.rivals.fine_tuning import FineTuning, FineTuningOptions


class FTMOptions(FineTuningOptions):
    """Options of FT-M."""

    loss_on: LossOn = Field("answer", description=FineTuningOptions.model_fields["loss_on"].description)


class FTM(FineTuning[FTMOptions]):
    """The method, in the registry as `ft-m`."""

    name = "ft-m"
    pretty_name = "FT-M"
    Options = FTMOptions

    @classmethod
    def reference_url(cls) -> str:
        """The paper on arXiv."""
        return "https://arxiv.org/abs/2401.01286"

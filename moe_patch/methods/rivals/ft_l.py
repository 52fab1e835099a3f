"""FT-L: fine-tuning under a bound on every element's change.

Zhu et al. (arXiv 2012.00363) constrain the change in the L-infinity norm; ROME runs this as FT+L (arXiv
2202.05262, appendix E.1), with the whole answer predicted at the prompt's last token. ROME's bounds differ by
model (5e-4 on GPT-2 XL, 5e-5 on GPT-J), so there is no value to take over; the default is 1e-3. The bound
holds for each batch of facts, from the weights that it found, as in ROME's code.
"""

from __future__ import annotations

from pydantic import Field

from moe_patch.methods.rivals.examples import LossOn
from moe_patch.methods.rivals.fine_tuning import FineTuning, FineTuningOptions

BOUND = 1e-3


class FTLOptions(FineTuningOptions):
    """Options of FT-L."""

    loss_on: LossOn = Field("prompt-end", description=FineTuningOptions.model_fields["loss_on"].description)
    bound: float = Field(BOUND, gt=0, description="Most by which a batch may change an element of a weight.")


class FTL(FineTuning[FTLOptions]):
    """The method, in the registry as `ft-l`."""

    name = "ft-l"
    pretty_name = "FT-L"
    Options = FTLOptions

    @classmethod
    def reference_url(cls) -> str:
        """The paper that proposes the bound."""
        return "https://arxiv.org/abs/2012.00363"

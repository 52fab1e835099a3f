"""LocFT-BF: fine-tuning done as elsewhere, in epochs over all facts (ICLR 2026, arXiv 2509.22072).

Earlier baselines train one fact until it is learnt and then the next (depth first). Here every epoch goes
once over all facts, in mini-batches that are drawn anew (breadth first); the answers end with the end of
text; and one layer's down projection is trained. Rate, steps, mini-batches and early stop are those of the
paper's public code (ICT-STAR/LocFT). It trains layer 6 of Qwen2.5-7B and 22 of Llama-3-8B; here the layer is
open, as for all methods.

A `batch_size` cuts the facts into batches that are trained one after the other: breadth first within each.
"""

from __future__ import annotations

from pydantic import Field

from moe_patch.methods.rivals.examples import LossOn
from moe_patch.methods.rivals.fine_tuning import FineTuning, FineTuningOptions


class LocFTBFOptions(FineTuningOptions):
    """Options of LocFT-BF."""

    batch_size: int | None = Field(
        None, ge=1, description=FineTuningOptions.model_fields["batch_size"].description
    )
    facts_per_step: int = Field(100, ge=1, description="Facts in a mini-batch.")
    shuffle: bool = Field(True, description="Draw the mini-batches anew in each epoch.")
    loss_on: LossOn = Field("answer", description=FineTuningOptions.model_fields["loss_on"].description)
    end: bool = Field(True, description="Train the end of text after the answer.")


class LocFTBF(FineTuning[LocFTBFOptions]):
    """The method, in the registry as `locft-bf`."""

    name = "locft-bf"
    pretty_name = "LocFT-BF"
    Options = LocFTBFOptions

    @classmethod
    def reference_url(cls) -> str:
        """The paper on arXiv."""
        return "https://arxiv.org/abs/2509.22072"

"""FT: plain fine-tuning of one layer's down projections, one fact after the other.

The baseline of ROME and MEMIT (arXiv 2202.05262, appendix E.1; 2210.07229, appendix B.1). Rate, steps and
early stop are those of ROME's public code. Departures: the loss is that of the whole text, prompt and answer,
as plain language modelling has it, where ROME's predicts every token of the answer at the prompt's end
(`loss_on=prompt-end`); and only experts are trained.
"""

from __future__ import annotations

from moe_patch.methods.rivals.fine_tuning import FineTuning, FineTuningOptions


class FT(FineTuning[FineTuningOptions]):
    """The method, in the registry as `ft`."""

    name = "ft"
    pretty_name = "FT"
    Options = FineTuningOptions

    @classmethod
    def reference_url(cls) -> str:
        """ROME's paper, whose baseline it is."""
        return "https://arxiv.org/abs/2202.05262"

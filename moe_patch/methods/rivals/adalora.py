"""AdaLoRA: LoRA whose ranks go to where they matter (Zhang et al., ICLR 2023, arXiv 2303.10512), by PEFT.

An expert gets (alpha / r) P diag(E) Q. P and Q are kept nearly orthogonal by a penalty. All ranks together
have a budget, which falls by a cubic schedule from `initial_rank` to `rank` for each expert on average: the
singular values E that matter least are set to zero. The schedule covers the whole
training, so with several batches of facts the later ones are trained with fewer ranks. The paper's schedules
count steps of its data sets; here they are shares of the training. Other options and departures are those of
`adapter_training`.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator
from torch import Tensor

from moe_patch.methods.rivals.adapted_experts import ADAPTER, ExpertShapes, peft_library
from moe_patch.methods.rivals.adapter_training import AdapterMethod, AdapterOptions


class AdaLoRAOptions(AdapterOptions):
    """Options of AdaLoRA. Where the paper has no value that means the same everywhere, they are PEFT's."""

    initial_rank: int = Field(12, ge=1, le=2**12, description="Rank of an expert's adapter at the start.")
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of the steps before ranks are taken.")
    settling: float = Field(0.3, ge=0, lt=1, description="Share of the steps after the last rank was taken.")
    orthogonal: float = Field(0.5, ge=0, description="gamma, the weight of the penalty on P and Q.")

    @model_validator(mode="after")
    def _a_schedule(self) -> AdaLoRAOptions:
        if self.warmup + self.settling >= 1:
            raise ValueError("warmup and settling leave no step in which ranks are taken: lower one")
        if self.initial_rank < self.rank:
            raise ValueError(f"initial_rank is {self.initial_rank}, below the rank {self.rank} to end at")
        return self


class AdaLoRA(AdapterMethod[AdaLoRAOptions]):
    """The method, in the registry as `adalora`."""

    name = "adalora"
    pretty_name = "AdaLoRA"
    Options = AdaLoRAOptions

    @classmethod
    def reference_url(cls) -> str:
        """The paper on arXiv."""
        return "https://arxiv.org/abs/2303.10512"

    def adapter(self, shapes: ExpertShapes, options: AdaLoRAOptions, steps: int) -> Any:
        """PEFT's AdaLoRA over the experts."""
        peft = peft_library()
        config = peft.AdaLoraConfig(
            target_r=options.rank,
            init_r=options.initial_rank,
            lora_alpha=options.alpha,
            tinit=int(options.warmup * steps),
            tfinal=int(options.settling * steps),
            orth_reg_weight=options.orthogonal,
            total_step=steps,
            target_modules=r"linears\.\d+",
        )
        return peft.AdaLoraModel(shapes, config, ADAPTER)

    def factors(self, linear: Any) -> tuple[Tensor, Tensor]:
        """(alpha / r) P^T and diag(E) Q, r being the rank at the start, as PEFT has it."""
        scale = linear.scaling[ADAPTER] / (linear.ranknum[ADAPTER] + 1e-5)
        left: Tensor = scale * linear.lora_B[ADAPTER].T  # (r, d_m)
        return left, linear.lora_A[ADAPTER] * linear.lora_E[ADAPTER]

    def stepped(self, tuner: Any, step: int) -> None:
        """Take ranks by the schedule."""
        tuner.update_and_allocate(step)

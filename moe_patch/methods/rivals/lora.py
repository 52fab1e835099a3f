"""LoRA: adapters of rank r, trained on the answers (Hu et al., ICLR 2022, arXiv 2106.09685), through PEFT.

An expert gets (alpha / r) B A. A is drawn at random and B starts at zero, so that nothing changes at first.
Options and departures are those of `adapter_training`.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor

from moe_patch.methods.rivals.adapted_experts import ADAPTER, ExpertShapes, peft_library
from moe_patch.methods.rivals.adapter_training import AdapterMethod, AdapterOptions


class LoRAOptions(AdapterOptions):
    """Options of LoRA."""

    stop_loss: float = Field(1e-3, ge=0, description="Loss, in nats a token, at which training ends.")


class LoRA(AdapterMethod[LoRAOptions]):
    """The method, in the registry as `lora`."""

    name = "lora"
    pretty_name = "LoRA"
    Options = LoRAOptions

    @classmethod
    def reference_url(cls) -> str:
        """The paper on arXiv."""
        return "https://arxiv.org/abs/2106.09685"

    def adapter(self, shapes: ExpertShapes, options: LoRAOptions, steps: int) -> Any:
        """PEFT's LoRA over the experts."""
        peft = peft_library()
        config = peft.LoraConfig(r=options.rank, lora_alpha=options.alpha, target_modules=r"linears\.\d+")
        return peft.LoraModel(shapes, config, ADAPTER)

    def factors(self, linear: Any) -> tuple[Tensor, Tensor]:
        """(alpha / r) B^T and A."""
        left: Tensor = linear.scaling[ADAPTER] * linear.lora_B[ADAPTER].weight.T  # (r, d_m)
        return left, linear.lora_A[ADAPTER].weight

    def stop_loss(self, options: LoRAOptions) -> float:
        """As in EasyEdit's first code."""
        return options.stop_loss

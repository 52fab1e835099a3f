"""The search for target values as MEMIT's and AlphaEdit's public configurations have it."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from moe_patch.targets.options import TargetOptions, Units


class PublishedTargets(TargetOptions):
    """MEMIT's search (arXiv 2210.07229, appendix B), which AlphaEdit's code takes over.

    The step is that of Llama3-8B; on GPT-J and GPT2-XL it is 0.5, and there are 20 steps on the latter.
    Prompts are tried after five prefixes of ten tokens that the model writes. Neither paper knows
    prompts that a fact asks to keep.
    """

    units: Units = "published"
    learning_rate: float = 0.1
    weight_decay: float = 0.5
    clamp: float = 0.75
    margin: float | None = None
    share: float = 1.0
    stop_loss: float = 0.05
    patience: int | None = None
    steps: int = 25
    keep_weight: float = 0.0
    contexts: int = 5
    context_tokens: int = 10

    @model_validator(mode="before")
    @classmethod
    def _of_any_search(cls, value: Any) -> Any:
        """Take the options of another search as they are."""
        return value.model_dump() if isinstance(value, TargetOptions) else value

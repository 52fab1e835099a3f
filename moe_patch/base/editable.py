"""Why a model cannot be edited: what its experts, its residual stream and its head must be like."""

from __future__ import annotations

import inspect
import re

from torch import nn
from transformers import PreTrainedModel

from moe_patch.errors import ModelError

_NOT_EDITABLE = {  # families that cannot be edited, with a more precise reason than the general one
    "llama4": "its routing weights multiply the experts' inputs and not their outputs",
    "dbrx": "its experts are stacked in one matrix and do not run through the experts interface",
    "jetmoe": "its experts share one bias and do not run through the experts interface",
    "longcat_flash": "some of its experts are identities, and none run through the experts interface",
    "doge": "its experts are rank-one rows of an embedding and have no down projection",
}

_STREAMS = ("hc_mult", "hc_count")  # what configs call the rows of a residual stream with hyper-connections


def check_editable(model: PreTrainedModel, *, has_experts: bool) -> None:
    """Check that a model can be edited.

    Args:
        model: the model.
        has_experts: whether some of its modules run through the experts interface.

    Raises:
        ModelError: it cannot, with the reason.
    """
    reason = _of_stream(model) if has_experts else _of_experts(model)
    if reason is not None:
        raise ModelError(f"{model.config.model_type} {reason}")


def is_dense(model: PreTrainedModel) -> bool:
    """Whether no module of the model is named after experts."""
    return not any(re.search("moe|expert", type(part).__name__, re.IGNORECASE) for part in model.modules())


def _of_experts(model: PreTrainedModel) -> str:
    """The reason if no module runs through the experts interface."""
    if is_dense(model):
        return "is a dense model: it has no experts to edit"
    if getattr(model.config, "quantization_config", None) is not None:
        return "is quantised: its experts' weights must be floats, so open it dequantised"
    model_type = model.config.get_text_config().model_type
    for family, reason in _NOT_EDITABLE.items():
        if model_type.startswith(family):
            return f"cannot be edited: {reason}"
    return "cannot be edited: its experts do not run through transformers' experts interface"


def _of_stream(model: PreTrainedModel) -> str | None:
    """The reason if target values have no place: they are for one stream, run through once, under a head."""
    config = model.config.get_text_config()
    rows = max(getattr(config, name, None) or 1 for name in _STREAMS)
    passes = getattr(config, "loop_num_passes", None) or 1
    asked = _also_asked_for(model) or _also_asked_for(model.get_decoder())
    if not model.can_generate():
        return f"cannot be edited: {type(model).__name__} has no head: open the whole model"
    if asked:
        return f"cannot be edited: its forward pass asks for {' and '.join(asked)}, not for text alone"
    if rows > 1:
        return f"cannot be edited: its residual stream has {rows} rows a token, and a target value is for one"
    if passes > 1:
        return f"cannot be edited: a pass runs its layers {passes} times, and a target value is for one run"
    return None


def _also_asked_for(model: nn.Module) -> list[str]:
    """What the `forward` of a model or of its decoder must be given beside the ids of tokens."""
    return [
        name
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        and name != "input_ids"
    ]

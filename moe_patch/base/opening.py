"""Opening a base model, and finding the MoE layers of a live one.

Everything here is read from the live module. The experts classes that transformers runs through its experts
interface all have the same flags (`is_transposed`, `has_gate`, ...). Only these flags, and never a shape or a
model's name, decide how the down projections are stored: the shape of a square matrix does not show its
orientation.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel
from transformers.utils import CONFIG_NAME
from transformers.utils.hub import cached_file

from moe_patch.base.classes import read_config, text_class
from moe_patch.base.dense import dense_decoder
from moe_patch.base.device import check_devices
from moe_patch.base.editable import check_editable, is_dense
from moe_patch.base.model import Base
from moe_patch.base.moe import MoELayer
from moe_patch.base.origin import Origin
from moe_patch.base.refusal import transformers_reads
from moe_patch.errors import ModelError
from moe_patch.io.model_place import find_model
from moe_patch.versions import norm_follows

logger = logging.getLogger(__name__)

_INTERFACE_FLAGS = ("is_transposed", "is_concatenated", "has_bias", "has_gate", "_apply_gate")

# What a pass returns, which configs left by a training ask for: a loss of balance cannot be computed where a
# pass continues from a cache, and the rest takes memory.
_OUTPUTS = {
    "output_attentions": False,
    "output_hidden_states": False,
    "output_router_logits": False,
    "return_dict": True,
}

_AFTER_EXPERTS = re.compile(r"post_(mlp|feedforward|feed_forward|ffn|moe)_")


def open_base(
    name: str | Path | None = None,
    *,
    dtype: torch.dtype | None = None,
    device_map: str | dict[str, Any] | None = None,
    offload_folder: str | Path | None = None,
    allow_dense: bool = False,
) -> Base:
    """Open a model.

    Args:
        name: a model name or a folder; None for the demo model that comes with the recipes.
        dtype: of the weights; None keeps the checkpoint's own.
        device_map: passed to accelerate.
        offload_folder: passed to accelerate.
        allow_dense: accept a model without experts, as for a bypass.

    Raises:
        ModelError: the model cannot be found, lacks weights or has some of other shapes, is quantised, has
            experts that cannot be edited, cannot run a pass, or is dense and `allow_dense` is false; there is
            no such device.
    """
    check_devices(device_map)
    found = find_model(name)
    place = found.source
    options: dict[str, Any] = {"dtype": dtype or "auto", "use_safetensors": True}
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # both are checked here
    if device_map is not None:
        options |= {"device_map": device_map, "offload_folder": offload_folder}
    config = read_config(place)
    auto = text_class(config)
    with transformers_reads(f"the model {place!r}"):
        model, loading = auto.from_pretrained(place, **options)
    _check_weights(place, loading)
    _check_end(place, model.generation_config)
    _return_logits(model.config)
    with transformers_reads(f"the tokenizer of {place!r}"):
        tokenizer = AutoTokenizer.from_pretrained(place)
        tokenizer("a")  # some of its settings are first used for a text
    base = wrap(model.eval(), tokenizer, found.name, allow_dense=allow_dense)
    _try_pass(base)
    base.origin = _origin(base, place, cast("torch.dtype | None", config.dtype), dtype)
    return base


def _return_logits(config: Any) -> None:
    """Let a model's passes return logits and nothing that they do not need; no number depends on it."""
    for part in (config, config.get_text_config()):
        for name, value in _OUTPUTS.items():
            if getattr(part, name, value) != value:
                setattr(part, name, value)


def _origin(base: Base, place: str, own: torch.dtype | None, dtype: torch.dtype | None) -> Origin | None:
    """The files that a model was opened from; None if `dtype` does not hold their numbers exactly."""
    config = cached_file(place, CONFIG_NAME)
    if config is None or (dtype and (own is None or torch.promote_types(dtype, own) != dtype)):
        return None
    return Origin.of(Path(config).parent, base.parts(), own_dtype=dtype in (None, own))


def _check_weights(place: str, loading: Mapping[str, Any]) -> None:
    """Refuse a model some of whose weights transformers has filled with random values."""
    if misfits := sorted(loading["mismatched_keys"]):
        name, stored, expected = misfits[0]
        raise ModelError(
            f"the model {place!r} has {len(misfits)} weights of other shapes than its config says, the first "
            f"of them {name}: it is {tuple(stored)}, but should be {tuple(expected)}"
        )
    if absent := sorted(loading["missing_keys"]):
        raise ModelError(f"the model {place!r} lacks {len(absent)} weights, the first of them {absent[0]}")


@torch.no_grad()
def _try_pass(base: Base) -> None:
    """Refuse a model that opens but cannot run: many values of a config are first used in a pass.

    Weights on the disk are not read for that.
    """
    if "disk" in getattr(base.model, "hf_device_map", {}).values():
        return
    ids = torch.zeros((1, 2), dtype=torch.long, device=base.device)
    with transformers_reads(f"the model {base.name!r}, although it opens", do="run"):
        base.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True)


def _check_end(place: str, settings: Any) -> None:
    """Refuse tokens that end a text and are none: transformers checks them only when it generates."""
    ends = settings.eos_token_id if settings is not None else None
    if not all(type(end) is int for end in (ends if isinstance(ends, list) else [ends]) if end is not None):
        raise ModelError(
            f"the generation config of {place!r} has the eos_token_id {ends!r}: expected a token's number, "
            "or a list of them"
        )


def wrap(model: nn.Module, tokenizer: Any, name: str | None = None, *, allow_dense: bool = False) -> Base:
    """A Base around a live model. If the closed form is not exact for it, the reason is logged.

    Args:
        model: a transformers model.
        tokenizer: of the model.
        name: for messages; None takes the name from the model's config.
        allow_dense: accept a model without experts, as for a bypass.

    Raises:
        ModelError: the model is not of transformers, its experts cannot be edited, or it is dense and
            `allow_dense` is false.
    """
    if not isinstance(model, PreTrainedModel):
        raise ModelError(f"expected a transformers model, not {type(model).__name__}")
    config = model.config.get_text_config()
    found = {path: module for path, module in model.named_modules() if _runs_through_interface(module)}
    known_as = name or config.name_or_path or config.model_type
    if not found and allow_dense and is_dense(model):
        return Base(model, tokenizer, known_as, {}, dense_decoder(model))
    check_editable(model, has_experts=bool(found))
    blocks, decoder = _decoder(model, found)
    layers: dict[int, MoELayer] = {}
    for path, module in found.items():
        match = re.match(re.escape(blocks) + r"\.(\d+)\.", path)
        if match is None:
            continue
        index = int(match[1])
        if index in layers:
            first, second = (found_at[match.end() :] for found_at in (layers[index].name, path))
            raise ModelError(
                f"{config.model_type} cannot be edited: its layers have two sets of experts each ({first}, "
                f"{second})"
            )
        layers[index] = _describe(index, path, module, decoder[index])
        if layers[index].d_model != config.hidden_size:
            raise ModelError(
                f"{config.model_type} cannot be edited: a projection follows its experts, which are "
                f"{layers[index].d_model} wide, and the residual stream is {config.hidden_size}"
            )
    for warning in sorted({layer.warning for layer in layers.values() if layer.warning}):
        logger.warning("%s: %s", config.model_type, warning)
    return Base(model, tokenizer, known_as, layers, decoder)


def _runs_through_interface(module: nn.Module) -> bool:
    return all(hasattr(module, flag) for flag in _INTERFACE_FLAGS) and hasattr(module, "down_proj")


def _decoder(model: Any, found: Iterable[str]) -> tuple[str, nn.ModuleList]:
    """Path and list of the decoder layers with experts. If there are several lists, the text decoder's."""
    candidates: dict[str, nn.ModuleList] = {}
    for path in found:
        parts = path.split(".")
        for depth in range(1, len(parts)):
            module = model.get_submodule(".".join(parts[:depth]))
            if isinstance(module, nn.ModuleList):
                candidates[".".join(parts[:depth])] = module
                break
    within = {id(module) for module in model.get_decoder().modules()}
    text = {path: module for path, module in candidates.items() if id(module) in within} or candidates
    if len(text) != 1:
        raise ModelError(
            f"expected one list of decoder layers with experts, found {sorted(candidates) or 'none'}"
        )
    return next(iter(text.items()))


def _describe(index: int, path: str, experts: Any, block: nn.Module) -> MoELayer:
    weight = experts.down_proj
    if type(weight) is not nn.Parameter or not weight.is_floating_point() or weight.element_size() < 2:
        kind = getattr(weight, "dtype", type(weight).__name__)
        raise ModelError(
            f"{path}.down_proj is quantised or sharded ({kind}): open the model in a float dtype"
        )
    transposed = bool(experts.is_transposed)
    num_experts, first, second = weight.shape
    d_model, d_key = (second, first) if transposed else (first, second)
    return MoELayer(
        index=index,
        name=path,
        experts=experts,
        num_experts=num_experts,
        d_model=d_model,
        d_key=d_key,
        layout="in_out" if transposed else "out_in",
        warning=_inexact(experts, block),
    )


def _inexact(experts: Any, block: nn.Module) -> str | None:
    """Why adding to the experts' output does not add the same to the residual stream; None if it does."""
    if norm_follows(experts):
        return "a norm follows every expert, so the closed form is not exact"
    for path, _ in block.named_modules():
        leaf = path.rpartition(".")[2]
        if _AFTER_EXPERTS.match(leaf):
            return f"{leaf} follows the experts, so the closed form is not exact"
    return None

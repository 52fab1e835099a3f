"""Putting a bypass beside a block of a model that vLLM is about to serve."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts
from vllm.model_executor.models.utils import extract_layer_index

from moe_patch.base.blocks import with_added
from moe_patch.bypass import Bypass, read_bypass
from moe_patch.errors import ConfigError, ModelError, PatchError
from moe_patch.patch import Patch
from moe_patch_serving.bypass import model_state, operator, runner
from moe_patch_serving.bypass.flags import refuse_codebook
from moe_patch_serving.bypass.limits import check_limits
from moe_patch_serving.bypass.served_bypass import ServedBypass
from moe_patch_serving.served_base import served_base
from moe_patch_serving.source import served_checkpoint

if TYPE_CHECKING:
    from vllm.config import VllmConfig

logger = logging.getLogger(__name__)


def prepare_bypass(patch: Patch, vllm_config: VllmConfig) -> Bypass:
    """Read a bypass patch for an engine whose model is not built yet.

    Raises:
        ConfigError: the bypass would be wrong with the engine's settings.
        WrongBase: the patch was built for another base than the served one.
        ModelError: the layer has no experts, or those of the checkpoint cannot be identified.
        PatchError: the patch is damaged, holds a codebook, or its width differs from the model's.
    """
    refuse_codebook(patch)
    bypass = read_bypass(patch)
    config = bypass.config
    check_limits(config, vllm_config)
    checkpoint = served_checkpoint(vllm_config.model_config, vllm_config.load_config)
    width = checkpoint.base.layer(config.layer).d_model
    served_base(checkpoint).check(patch)
    if width != config.width:
        raise PatchError(f"the bypass is {config.width} wide, {checkpoint.name} is {width} wide")
    _mark_compiled_code(config.layer, vllm_config)
    return bypass


def install_bypass(model: nn.Module, bypass: Bypass, patch: str, vllm_config: VllmConfig) -> None:
    """Run a prepared bypass beside its block from now on. `patch` is the hash of its patch.

    Its experts run in the model's dtype, its router in fp32. The model's parameters keep their names.

    Raises:
        ModelError: the model has no such block.
    """
    block = served_block(model, bypass.config.layer)
    device = next(block.parameters()).device
    dtype = vllm_config.model_config.dtype
    assert isinstance(dtype, torch.dtype)  # no longer the name that users give
    served = ServedBypass(bypass.keep_precision(dtype, device), patch)
    _add_output(block, operator.register_bypass(served, vllm_config))
    if vllm_config.use_v2_model_runner:
        model_state.follow_requests(model, vllm_config)
    else:
        runner.follow_requests()
    logger.info("Put the bypass %s beside the block of layer %d", patch, bypass.config.layer)


def served_block(model: nn.Module, layer: int) -> nn.Module:
    """The block of a decoder layer: the module that holds the routed experts and mixes their outputs.

    Raises:
        ModelError: there is no such module, or it is the layer itself.
    """
    for name, module in model.named_modules():
        if isinstance(module, RoutedExperts) and extract_layer_index(module.layer_name) == layer:
            before, _, within = name.partition(f"layers.{layer}.")
            place = within.partition(".")[0]
            block = model.get_submodule(f"{before}layers.{layer}.{place}")
            if block is not module:
                return block
    raise ModelError(f"layer {layer} of {type(model).__name__} has no block of experts in this worker")


def _add_output(block: nn.Module, name: str) -> None:
    forward = block.forward

    def with_bypass(hidden_states: Tensor, *arguments: Any, **named: Any) -> Any:
        # before the block runs: it may overwrite its inputs
        added = torch.ops.moe_patch.bypass(hidden_states, name)  # (N, d_m)
        return with_added(forward(hidden_states, *arguments, **named), added)

    block.forward = with_bypass


def _mark_compiled_code(layer: int, vllm_config: VllmConfig) -> None:
    """Separate code that is compiled with a bypass from other code in vLLM's cache.

    vLLM looks up compiled code by its config before it traces anything. Without the mark it would run the
    base's code, which has no bypass.
    """
    additional = vllm_config.additional_config
    if not isinstance(additional, dict):
        raise ConfigError(
            "a bypass marks vLLM's cache of compiled code by --additional-config, which has to be JSON"
        )
    additional["moe_patch_bypass"] = [*additional.get("moe_patch_bypass", []), layer]

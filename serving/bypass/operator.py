"""The operator `torch.ops.moe_patch.bypass`. It is opaque to compilers, because it depends on the requests.

Like vLLM's own attention and fused experts, it looks up its module by name in the forward context.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.library import Library
from vllm.config import get_layers_from_vllm_config
from vllm.forward_context import get_forward_context
from vllm.utils.torch_utils import direct_register_custom_op

from moe_patch.errors import BypassError
from moe_patch_serving.bypass.served_bypass import ServedBypass

if TYPE_CHECKING:
    from vllm.config import VllmConfig


def register_bypass(served: ServedBypass, vllm_config: VllmConfig) -> str:
    """Register a bypass with the operator. Returns the name to call it by."""
    _register()
    name = f"moe_patch.bypass.{served.config.layer}"
    vllm_config.compilation_config.static_forward_context[name] = served
    return name


def registered_bypasses(vllm_config: VllmConfig) -> list[ServedBypass]:
    """The bypasses of an engine, in this worker."""
    return list(get_layers_from_vllm_config(vllm_config, ServedBypass).values())


def _bypass(x: Tensor, name: str) -> Tensor:
    """What the bypass `name` adds to its block's output for inputs `x` (N, d_m)."""
    if x.is_cuda and torch.cuda.is_current_stream_capturing():
        raise BypassError(
            "the bypass was about to be recorded into a CUDA graph, which would play one batch's decisions "
            "to all others: serve with --enforce-eager"
        )
    served: ServedBypass = get_forward_context().no_compile_layers[name]
    return served(x)


def _bypass_fake(x: Tensor, name: str) -> Tensor:
    return torch.empty_like(x)


@cache
def _register() -> Library:
    """Define the operator, once in a process. It lives as long as the returned library."""
    library = Library("moe_patch", "FRAGMENT")
    direct_register_custom_op("bypass", _bypass, fake_impl=_bypass_fake, target_lib=library)
    return library

"""How what a layer's experts put out arrives in the residual stream."""

from __future__ import annotations

import logging
from contextlib import ExitStack

import torch
from torch import Tensor

from moe_patch.base.capture import run_decoder
from moe_patch.base.model import Base

logger = logging.getLogger(__name__)

_TOKENS = 16
_TOLERANCE = 2**-5  # far above what bf16 rounds off, far below what a norm does to a random vector


def asked_gain(base: Base, layer: int) -> float:
    """`residual_gain` for a method that needs a number: 1, with a warning, where there is none."""
    gain = residual_gain(base, layer)
    if gain is not None:
        return gain
    reason = base.layer(layer).warning or "what its experts put out does not arrive in proportion"
    logger.warning(
        "layer %d: %s; its experts are asked for what is missing in the residual stream as it is, so that "
        "facts may fall short of their target values",
        layer,
        reason,
    )
    return 1.0


def residual_gain(base: Base, layer: int) -> float | None:
    """The factor on the experts' output on its way into the residual stream; None if there is no such number.

    It is 1 in most architectures; Granite scales each block's output, others the routed experts' share. A
    change of the residual stream by r takes one of the experts' output by r / gain. It is measured: a few
    tokens are run as far as `layer`, twice, the second time with random vectors added to the experts'
    outputs. None means that what arrives is no multiple of what was added, and then `MoELayer.warning` should
    say what stands between.
    """
    ids = torch.linspace(0, base.model.config.get_text_config().vocab_size - 1, _TOKENS).long()[
        None
    ]  # (1, N)
    plain, residual = _outputs(base, layer, ids, push=None)
    scale = float(residual.float().square().mean().sqrt())
    push = scale * torch.randn(plain.shape, generator=torch.Generator().manual_seed(0))  # (N, d_m)
    _, moved = _outputs(base, layer, ids, push)
    arrived = (moved.float() - residual.float()).cpu()
    if arrived.numel() != push.numel():
        return None
    arrived = arrived.reshape(push.shape)
    gain = float((arrived * push).sum() / push.square().sum())
    error = float((arrived - gain * push).norm() / arrived.norm())
    if not error < _TOLERANCE:
        return None
    return 1.0 if abs(gain - 1.0) <= error else gain  # as closely as the measurement can tell


def _outputs(base: Base, index: int, ids: Tensor, push: Tensor | None) -> tuple[Tensor, Tensor]:
    """What the layer's experts (N, d_m) and its block (1, N, d_m) put out, `push` added to the former."""
    seen: list[Tensor] = []

    def add(experts: object, inputs: object, output: Tensor) -> Tensor:
        return output if push is None else output + push.to(output)

    def keep(module: object, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    experts, block = base.layer(index).experts, base.decoder_layers[index]
    with ExitStack() as stack:
        stack.callback(experts.register_forward_hook(add).remove)
        stack.callback(experts.register_forward_hook(keep).remove)
        stack.callback(block.register_forward_hook(keep).remove)
        run_decoder(base, ids, torch.ones_like(ids), index)
    return seen[0], seen[1]

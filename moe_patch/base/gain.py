"""The factor between a layer's expert output and what it adds to the residual stream."""

from __future__ import annotations

import logging
from contextlib import ExitStack

import torch
from torch import Tensor

from moe_patch.base.capture import run_decoder
from moe_patch.base.model import Base

logger = logging.getLogger(__name__)

_TOKENS = 16
_TOLERANCE = 2**-5  # far above the rounding of bf16, far below what a norm does to a random vector


def asked_gain(base: Base, layer: int) -> float:
    """`residual_gain` for a method that needs a number: 1, with a warning, if there is no such factor."""
    gain = residual_gain(base, layer)
    if gain is not None:
        return gain
    reason = base.layer(layer).warning or "the residual stream does not change in proportion to its experts"
    logger.warning(
        "layer %d: %s; the edit assumes a factor of 1, so facts may miss their target values",
        layer,
        reason,
    )
    return 1.0


def residual_gain(base: Base, layer: int) -> float | None:
    """The factor by which the experts' output is multiplied on its way into the residual stream, or None.

    It is 1 in most architectures. Granite scales each block's output, others the routed experts' share. To
    change the residual stream by r, the experts' output must change by r / gain.

    The factor is measured. A few tokens are run up to `layer` twice, the second time with random vectors
    added to the experts' outputs. None means that the change of the residual stream is not a multiple of
    these vectors. `MoELayer.warning` should then say what comes in between.
    """
    ids = torch.linspace(0, base.model.config.get_text_config().vocab_size - 1, _TOKENS).long()[
        None
    ]  # (1, N)
    plain, residual = _outputs(base, layer, ids, push=None)
    scale = float(residual.float().square().mean().sqrt())
    push = scale * torch.randn(plain.shape, generator=torch.Generator().manual_seed(0))  # (N, d_m)
    _, moved = _outputs(base, layer, ids, push)
    arrived = (moved.float() - residual.float()).cpu().reshape(push.shape)
    gain = float((arrived * push).sum() / push.square().sum())
    error = float((arrived - gain * push).norm() / arrived.norm())
    if not error < _TOLERANCE:
        return None
    return 1.0 if abs(gain - 1.0) <= error else gain  # within the error of the measurement, it is 1


def _outputs(base: Base, index: int, ids: Tensor, push: Tensor | None) -> tuple[Tensor, Tensor]:
    """The outputs of the layer's experts (N, d_m), plus `push`, and of its block (1, N, d_m)."""
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

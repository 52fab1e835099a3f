"""Gradients with respect to what a layer's experts put out."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from moe_patch.base.freezing import frozen_weights
from moe_patch.base.model import Base
from moe_patch.errors import StatisticsError
from moe_patch.solve.finite import check_finite


@dataclass(frozen=True, slots=True, eq=False)
class OutputGradient:
    """One layer's experts on B*S tokens, row by row, padding included."""

    output: Tensor  # (B*S, d_m) fp32: the sum of a token's experts, weighted by their gates
    gradient: Tensor  # (B*S, d_m) fp32: of the loss, through all that comes after


def output_gradients(
    base: Base, layers: Collection[int], ids: Tensor, mask: Tensor, loss: Callable[[Tensor], Tensor]
) -> dict[int, OutputGradient]:
    """Gradients at the outputs of the experts of `layers`, for the model as it is, live deltas included.

    A layer's gradient includes what its output does through the layers above, edited ones too.

    Args:
        base: the model.
        layers: decoder indices of MoE layers.
        ids: (B, S).
        mask: (B, S), zero for padding.
        loss: of the logits (B, S, V); one number.

    Raises:
        ModelError: a layer is dense or out of range.
        NumericalError: a gradient is not finite.
    """
    seen: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[..., Tensor]:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            # below the lowest layer nothing requires a gradient, so its output starts the graph
            seen[layer] = output if output.requires_grad else output.detach().requires_grad_()
            return seen[layer]

        return hook

    model: Any = base.model
    with frozen_weights(base.model), torch.enable_grad(), ExitStack() as hooks:
        for layer in layers:
            hooks.callback(base.layer(layer).experts.register_forward_hook(keep(layer)).remove)
        inputs = {"input_ids": ids.to(base.device), "attention_mask": mask.to(base.device)}
        logits = model(**inputs, use_cache=False).logits  # (B, S, V)
        found = torch.autograd.grad(loss(logits), [seen[layer] for layer in layers])
    gradients = {}
    for layer, gradient in zip(layers, found, strict=True):
        width = gradient.shape[-1]
        own = gradient.reshape(-1, width).float().cpu()  # (B*S, d_m)
        check_finite(own, "the gradients", f"at layer {layer}")
        gradients[layer] = OutputGradient(seen[layer].detach().reshape(-1, width).float().cpu(), own)
    return gradients


def gradient_moments(
    base: Base,
    sequences: Collection[list[int]],
    layers: Collection[int],
    *,
    pad: int,
    seed: int = 0,
    per_pass: int = 8,
) -> dict[int, Tensor]:
    """The mean of g g^T over a text's tokens, where g is the gradient of a random loss at a layer's experts.

    The loss is that of labels which the model draws at every token from its own distribution, and not of the
    text: so the mean is the Fisher information of the output (Martens and Grosse, 2015, section 2), which
    says how much each direction of the output matters for what the model predicts.

    Args:
        base: the model, without patches.
        sequences: tokens of texts.
        layers: decoder indices of MoE layers.
        pad: a token to pad with.
        seed: of the labels.
        per_pass: sequences run together.

    Returns:
        (d_m, d_m) fp64 by layer.

    Raises:
        ModelError: a layer is dense or out of range.
        NumericalError: a gradient is not finite.
        StatisticsError: there are no texts.
    """
    generator = torch.Generator().manual_seed(seed)
    total = {
        layer: torch.zeros(base.layer(layer).d_model, base.layer(layer).d_model, dtype=torch.float64)
        for layer in layers
    }
    tokens, texts = 0, sorted(sequences, key=len)
    for start in range(0, len(texts), per_pass):
        some = texts[start : start + per_pass]
        longest = max(map(len, some))
        ids = torch.tensor([text + [pad] * (longest - len(text)) for text in some])  # (B, S)
        mask = (torch.arange(longest) < torch.tensor(list(map(len, some)))[:, None]).long()
        real = mask.reshape(-1).bool()  # (B*S,)
        loss = partial(_random_loss, real=real, generator=generator)
        for layer, found in output_gradients(base, layers, ids, mask, loss).items():
            own = found.gradient[real].double()  # (n, d_m)
            total[layer] += own.T @ own
        tokens += int(mask.sum())
    if not tokens:
        raise StatisticsError("gradients need text: give a corpus, or whiten by the moments of outputs")
    return {layer: second / tokens for layer, second in total.items()}


def _random_loss(logits: Tensor, *, real: Tensor, generator: torch.Generator) -> Tensor:
    """The sum over real tokens (B*S,) of the loss of a label that logits (B, S, V) themselves draw."""
    own = logits.reshape(-1, logits.shape[-1]).float()[real.to(logits.device)]  # (n, V)
    chances = own.detach().softmax(-1).cpu()
    labels = torch.multinomial(chances, 1, generator=generator)[:, 0].to(own.device)  # (n,)
    return nn.functional.cross_entropy(own, labels, reduction="sum")

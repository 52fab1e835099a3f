"""From a dense Llama to a mixture of experts, one layer after the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .dealing import deal_neurons, shares
from .refit import refit_down
from .routing import route, tree_router


@dataclass(frozen=True)
class Conversion:
    """What a conversion depends on beside the models and the text."""

    top_k: int  # experts of a token
    width: int  # neurons of an expert
    apart: float = 0.5  # how much less a neuron counts, from 0 to 1, when the expert's sibling holds it
    ridge: float = 1.0  # of the refit, relative to the keys' mean square
    catch_up: float = 0.5  # how much of what earlier layers got wrong a layer tries to put right
    seed: int = 0

    @property
    def experts(self) -> int:
        """Experts of a layer: two halves of top_k pairs."""
        return 4 * self.top_k


@torch.no_grad()
def convert_layers(dense: nn.Module, moe: nn.Module, text: Tensor, conversion: Conversion) -> Iterable[float]:
    """Fill the experts and routers of `moe`, and yield each layer's relative error on `text` as it is done.

    Args:
        dense: the model that is converted.
        moe: has all of its other weights.
        text: (N, L) token numbers.
        conversion: sizes and strengths.
    """
    true = running = dense.model.embed_tokens(text)  # (N, L, d)
    for layer, made in zip(dense.model.layers, moe.model.layers, strict=True):
        true = true + _attend(dense, layer, true)
        true = true + _in_slices(layer.mlp, layer.post_attention_layernorm(true))
        running = running + _attend(dense, layer, running)
        inputs = layer.post_attention_layernorm(running)  # (N, L, d)
        # What is written counts relative to the stream, as the next norm sees it. The stream of a few tokens
        # is a hundred times as large as the others', and theirs would otherwise be all that is fitted.
        scale = running.square().mean(-1).rsqrt()  # (N, L)
        written, error = _convert_layer(
            layer.mlp,
            made.mlp,
            inputs.flatten(0, 1),
            (true - running).flatten(0, 1),
            scale.flatten(),
            conversion,
        )
        running = running + written.view_as(running)
        yield error


def _convert_layer(
    mlp: nn.Module, moe: nn.Module, inputs: Tensor, wanted: Tensor, scale: Tensor, conversion: Conversion
) -> tuple[Tensor, float]:
    """Set the weights of `moe`; what it then writes (T, d), and its error relative to what `mlp` writes.

    Everything is measured after a factor `scale` (T,) for each token.
    """
    scale = scale[:, None]
    keys = functional.silu(mlp.gate_proj(inputs)) * mlp.up_proj(inputs) * scale  # (T, N)
    down = mlp.down_proj.weight.T  # (N, d)
    outputs = keys @ down
    activity = keys.abs() * down.norm(dim=-1)  # (T, N)
    rows, parts = tree_router(inputs, activity, conversion.top_k, conversion.seed)
    weights, chosen = route(inputs, rows, conversion.top_k)
    energy = activity.square_()
    neurons = deal_neurons(energy, chosen, parts, conversion.width, conversion.apart)
    prior = down[neurons] * shares(energy, weights, chosen, neurons)[..., None]
    targets = outputs + conversion.catch_up * (wanted * scale - outputs)
    refitted = refit_down(keys, weights, chosen, neurons, targets, prior, conversion.ridge)
    moe.gate.weight.copy_(rows)
    moe.experts.gate_up_proj.copy_(torch.cat([mlp.gate_proj.weight[neurons], mlp.up_proj.weight[neurons]], 1))
    moe.experts.down_proj.copy_(refitted.transpose(1, 2))
    written = _in_slices(moe, inputs)
    return written, float((written * scale - outputs).square().sum() / outputs.square().sum())


def _attend(dense: nn.Module, layer: nn.Module, stream: Tensor, rows: int = 16) -> Tensor:
    """What the attention of `layer` adds to `stream` (N, L, d)."""
    positions = torch.arange(stream.shape[1])[None]
    turns = dense.model.rotary_emb(stream, positions)
    return torch.cat(
        [
            layer.self_attn(layer.input_layernorm(part), position_embeddings=turns, attention_mask=None)[0]
            for part in stream.split(rows)
        ]
    )


def _in_slices(module: nn.Module, inputs: Tensor, rows: int = 4096) -> Tensor:
    """`module` over inputs (..., T, d), so many tokens at a time."""
    flat = inputs.reshape(-1, inputs.shape[-1])
    return torch.cat([module(part[None])[0] for part in flat.split(rows)]).view_as(inputs)

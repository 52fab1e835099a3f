"""What a stage of a build does, counted: passes of a model over rows of tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from moe_patch.planning.outline import LayerOutline, ModelOutline

Kind = Literal["forward", "search", "step"]
"""A pass over rows; a pass and the gradients of its input; or one more token for each row, from a cache."""

ACTIVATIONS = 12
"""Numbers as wide as the stream that a layer keeps for the gradients of a token, next to its keys."""


@dataclass(frozen=True, slots=True)
class Work:
    """Passes of one shape."""

    kind: Kind
    rows: int  # in a pass
    tokens: int  # of a row; for a step, those in the cache
    passes: float
    layers: tuple[int, ...]  # decoder indices of the layers run
    logits: int = 0  # of a pass: tokens whose logits are computed

    @property
    def width(self) -> int:
        """The tokens that a pass computes."""
        return self.rows if self.kind == "step" else self.rows * self.tokens

    def flops(self, model: ModelOutline) -> float:
        """Operations of all passes; gradients of the input cost as much as the pass itself."""
        factor = 2.0 if self.kind == "search" else 1.0
        each = sum(model.layers[index].token_flops for index in self.layers)
        return self.passes * factor * (self.width * each + self.logits * model.head_flops)

    def moved(self, model: ModelOutline) -> float:
        """Bytes of weights that all passes read."""
        read = sum(touched_parameters(model.layers[index], self.width) for index in self.layers)
        head = model.hidden * model.vocabulary if self.logits else 0
        factor = 2.0 if self.kind == "search" else 1.0
        return self.passes * factor * model.dtype.itemsize * (read + head)

    def held(self, model: ModelOutline) -> int:
        """Most bytes of activations, caches and logits at a time, beside the weights."""
        wide = model.dtype.itemsize * model.hidden
        one_layer = self.width * (ACTIVATIONS * wide + _widest_key(model, self.layers) * model.dtype.itemsize)
        logits = 3 * self.logits * model.vocabulary * 4  # in fp32: logits, their log-softmax and a gradient
        if self.kind == "search":
            return len(self.layers) * one_layer + logits
        cache = 2 * self.rows * self.tokens * wide * len(self.layers) if self.kind == "step" else 0
        return one_layer + logits + cache


def touched_parameters(layer: LayerOutline, tokens: int) -> float:
    """Weights of a layer that are read for this many tokens, if the router chooses evenly at random."""
    if not layer.experts:
        return layer.parameters
    others = layer.parameters - layer.experts * layer.expert_parameters
    reached = layer.experts * (1 - (1 - layer.top_k / layer.experts) ** tokens)
    return others + reached * layer.expert_parameters


def _widest_key(model: ModelOutline, layers: Iterable[int]) -> int:
    """Numbers of a token's keys in the widest layer: gate, value and key of each expert it visits."""
    return max((3 * model.layers[i].top_k * model.layers[i].d_key for i in layers), default=0)

"""Experts' down projections with adapters of PEFT, which are run as this project's deltas.

PEFT sees one linear layer for each expert, in the expert's sizes and without its weights. So its adapters are
the same for every layout, dtype and place of the weights, AdaLoRA included, which PEFT itself has no form of
for stacked experts; and nothing of PEFT is ever put on the model. What the adapters add is a low-rank delta
(`attach_delta`), computed beside the experts while they are trained and in the patch afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from moe_patch.base.experts import Handle, attach_delta
from moe_patch.base.model import Base
from moe_patch.base.moe import MoELayer
from moe_patch.errors import ConfigError
from moe_patch.patch import LayerDelta
from moe_patch.patch.rows import Rows

ADAPTER = "default"
"""PEFT's own name for an adapter that nobody named."""

Factors = tuple[Tensor, Tensor]
"""Left (r, d_m) and right (r, d_k) factors of one expert: it gets left^T right."""

FactorsOf = Callable[[Any], Factors]
"""The factors of one adapted linear layer of PEFT."""


def peft_library() -> Any:
    """PEFT.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import peft  # noqa: PLC0415  # an extra, and slow to import
    except ImportError as error:
        raise ConfigError("LoRA is trained with PEFT: install moe-patch[peft]") from error
    return peft


class ExpertShapes(nn.Module):
    """A linear layer for each expert, in its sizes, for PEFT to adapt. Weights are zeros without memory."""

    def __init__(self, layers: Sequence[MoELayer], experts: Mapping[int, Sequence[int]]) -> None:
        super().__init__()
        self.places = [(layer.index, expert) for layer in layers for expert in experts[layer.index]]
        by_index = {layer.index: layer for layer in layers}
        self.linears = nn.ModuleList(_linear(by_index[index]) for index, _ in self.places)


def _linear(layer: MoELayer) -> nn.Linear:
    with torch.device("meta"):
        linear = nn.Linear(layer.d_key, layer.d_model, bias=False)
    zero = torch.zeros((), device=layer.device).expand(layer.d_model, layer.d_key)  # adapters become fp32 too
    linear.weight = nn.Parameter(zero, requires_grad=False)
    return linear


class AdaptedExperts:
    """Adapters on some experts, as deltas on the model from `on` to the end of its handle."""

    def __init__(self, base: Base, shapes: ExpertShapes, factors_of: FactorsOf) -> None:
        """`shapes` is what PEFT has adapted already."""
        self._base, self._shapes, self._factors_of = base, shapes, factors_of

    def on(self) -> Handle:
        """Add what the adapters hold now to the experts' outputs; gradients reach the adapters."""
        with ExitStack() as stack:
            for layer, (left, rows) in self._rows().items():
                delta = LayerDelta.from_solution(left, rows, residual=None, ridge=0.0)
                stack.enter_context(attach_delta(self._base.layer(layer), delta))
            return Handle(stack.pop_all())

    @torch.no_grad()
    def deltas(self, own: Mapping[int, Rows]) -> dict[int, LayerDelta]:
        """The adapters as deltas of a patch, without what adds nothing.

        Args:
            own: by layer, the facts' own rows.
        """
        found = {}
        for layer, (left, rows) in self._rows().items():
            kept = (left.abs().amax(1) > 0) & (rows.value.abs().amax(1) > 0)  # (R,)
            count = int(kept.sum())
            thinned = Rows(rows.value[kept].cpu(), rows.expert[kept.cpu()], torch.arange(count), count)
            found[layer] = LayerDelta.from_solution(
                left[kept].cpu(), thinned, residual=None, ridge=0.0, fact_rows=own[layer]
            )
        return found

    def _rows(self) -> dict[int, tuple[Tensor, Rows]]:
        """By layer, left factors (R, d_m) and as many rows: those of one expert after the other."""
        parts: dict[int, list[tuple[int, Factors]]] = {layer: [] for layer, _ in self._shapes.places}
        for (layer, expert), linear in zip(self._shapes.places, self._shapes.linears, strict=True):
            parts[layer].append((expert, self._factors_of(linear)))
        return {layer: _joined(factors) for layer, factors in parts.items()}


def _joined(factors: Sequence[tuple[int, Factors]]) -> tuple[Tensor, Rows]:
    """The factors of a layer's experts, which ascend, as left factors (R, d_m) and rows (R, d_k)."""
    left = torch.cat([left for _, (left, _) in factors])
    right = torch.cat([right for _, (_, right) in factors])
    expert = torch.cat([torch.full((len(right),), number) for number, (_, right) in factors])
    return left, Rows(right, expert, torch.arange(len(right)), len(right))

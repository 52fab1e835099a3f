"""How much of an edit is left when the weights that carry it have been rounded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from moe_patch.base.experts import Delta
from moe_patch.patch import LayerDelta, Patch

STATED_LOSS = 0.1
"""A warning is logged if rounding loses more than this share of a fact's edit."""


@dataclass(frozen=True, slots=True, eq=False)
class ExpertContribution:
    """What one expert should contribute to the facts' edits at a layer, and what is missing of it."""

    layer: int
    fact: Tensor  # (n,) numbers of the facts that reach the expert
    wanted: Tensor  # (n, d_m) the change of the expert's output for each fact
    missing: Tensor  # (n, d_m) the part of it that rounding lost


class Survival:
    """How much of each fact's edit rounding lost, measured on the fact's own keys.

    At an edited layer, fact t should receive sum_j D_j g_tj k~_tj. It receives the same sum over the changes
    that the weights really got. The share lost is the norm of the difference over the norm of the first.
    """

    def __init__(self, patch: Patch) -> None:
        self._layers = patch.layers
        self._wanted = {index: _zeros(delta) for index, delta in patch.layers.items()}  # (T, d_m) each
        self._missing = {index: _zeros(delta) for index, delta in patch.layers.items()}

    def add(self, layer: int, expert: int, wanted: Iterable[Delta], missing: Tensor) -> None:
        """Record an expert that should change by all of `wanted`, with `missing` (d_m, d_k) lost of it."""
        self.count(self.contribution(layer, expert, wanted, missing))

    def contribution(
        self, layer: int, expert: int, wanted: Iterable[Delta], missing: Tensor
    ) -> ExpertContribution | None:
        """What `add` would record, without recording it: this much may be done in several threads."""
        if layer not in self._layers:
            return None
        key, fact = self._layers[layer].fact_rows.of(expert)  # (n, d_k) and (n,)
        asked = torch.zeros(len(key), missing.shape[0])  # (n, d_m)
        for delta in wanted:
            row = (delta.rows.expert == expert).nonzero().squeeze(1)  # (m,)
            asked += (key @ delta.rows.value[row].T) @ delta.left[delta.rows.fact[row]]
            if delta.dense is not None and (whole := delta.dense.of(expert)) is not None:
                asked += key @ whole.T
        return ExpertContribution(layer, fact, asked, (missing.to(key.dtype) @ key.T).T)

    def count(self, contribution: ExpertContribution | None) -> None:
        """Record a part. The order of the calls affects the last bits of the sums."""
        if contribution is not None:
            self._wanted[contribution.layer].index_add_(0, contribution.fact, contribution.wanted)
            self._missing[contribution.layer].index_add_(0, contribution.fact, contribution.missing)

    def shares(self) -> Tensor:
        """(n,) the share lost, for each fact at each layer where it should receive something."""
        parts = [torch.zeros(0)]
        for layer, value in self._wanted.items():
            wanted, missing = value.norm(dim=1), self._missing[layer].norm(dim=1)  # (T,)
            parts.append((missing / wanted)[wanted > 0])
        return torch.cat(parts)

    def lost(self) -> dict[str, float]:
        """The largest share and the median one; empty if no fact should receive anything."""
        shares = self.shares()
        return {"worst": float(shares.max()), "median": float(shares.median())} if len(shares) else {}


def _zeros(delta: LayerDelta) -> Tensor:
    return torch.zeros(delta.fact_rows.num_facts, delta.left.shape[1])  # (T, d_m)

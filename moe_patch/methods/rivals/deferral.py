"""GRACE's rules: which key a new edit gets, and what becomes of the keys and radii that are there.

Hartvigsen et al., NeurIPS 2023 (arXiv 2211.11031), section 3 and algorithm 1. For a query q with a label, i
being the nearest key and d its distance:

    no key yet, or d > radius_i + epsilon   add q with the radius epsilon
    else, if i has another label            split: add q with the radius d / 2, and radius_i = d / 2 - 1e-5
    else, if d > radius_i                   expand: radius_i = d
    else                                    q is covered already
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from moe_patch.bypass.codebook import nearest_keys

GAP = 1e-5
"""By how much two balls that were split stay apart."""


@dataclass(slots=True)
class KeySet:
    """Keys with their labels and radii, as edits come one after the other."""

    epsilon: float  # the radius of a new key
    keys: list[Tensor] = field(default_factory=list)  # (d_m,) each
    labels: list[Hashable] = field(default_factory=list)
    radii: list[float] = field(default_factory=list)

    def take(self, query: Tensor, label: Hashable) -> int:
        """Make room for one edit by the rules. Returns the number of its key.

        Args:
            query: (d_m,) fp32.
            label: equal for edits that ask for the same answer.
        """
        if not self.keys:
            return self._add(query, label, self.epsilon)
        distance, nearest = self._nearest(query)
        if distance > self.radii[nearest] + self.epsilon:
            return self._add(query, label, self.epsilon)
        if self.labels[nearest] != label:
            self.radii[nearest] = distance / 2 - GAP
            return self._add(query, label, distance / 2)
        self.radii[nearest] = max(self.radii[nearest], distance)
        return nearest

    def _nearest(self, query: Tensor) -> tuple[float, int]:
        distance, place = nearest_keys(query[None], torch.stack(self.keys))
        return float(distance), int(place)

    def _add(self, query: Tensor, label: Hashable, radius: float) -> int:
        self.keys.append(query)
        self.labels.append(label)
        self.radii.append(radius)
        return len(self.keys) - 1


def take_all(keys: KeySet, queries: Tensor, labels: Sequence[Hashable]) -> Tensor:
    """Take edits in order. Returns the key (T,) of each, from queries (T, d_m)."""
    taken = [keys.take(query, label) for query, label in zip(queries, labels, strict=True)]
    return torch.tensor(taken, dtype=torch.int64)

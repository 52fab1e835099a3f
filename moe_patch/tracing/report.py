"""What a trace found, by layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from moe_patch.tracing.sites import Kind


@dataclass(frozen=True, slots=True)
class Effect:
    """A mean over facts."""

    mean: float
    error: float  # standard error of the mean; 0 with a single fact
    values: tuple[float, ...] = ()  # (F,) of which it is the mean

    @classmethod
    def of(cls, values: Tensor) -> Effect:
        """The mean of values (F,), one for each fact."""
        return cls(float(values.mean()), _error(values), tuple(values.tolist()))

    def error_beside(self, other: Effect) -> float:
        """The standard error of this mean's distance from another of the same facts; 0 if none is known."""
        if len(self.values) != len(other.values):
            return 0.0
        own, others = (torch.tensor(effect.values, dtype=torch.float64) for effect in (self, other))
        return _error(own - others)


@dataclass(frozen=True, slots=True)
class TracedFact:
    """A fact, and how likely its answer is with and without noise at the subject."""

    id: str
    prompt: str
    answer: str  # what the base says itself
    known: bool  # whether that is the fact's true answer
    clean: float  # probability of the answer, from 0 to 1
    corrupted: float  # with noise, the mean over its samples


@dataclass(frozen=True, slots=True)
class LayerEffect:
    """What restoring the state of one layer brings back: by how much the answer's probability rises."""

    layer: int
    experts: int  # E; 0 for a dense layer, which cannot be edited
    effects: dict[Kind, Effect]  # indirect effects by the kind of site; none where the layer has no such site


@dataclass(frozen=True, slots=True)
class TraceReport:
    """The average effects of noise at the subject, and of restoring one layer at the edited token.

    Probabilities are those of the whole answer. The total effect is what noise takes from it, and an indirect
    effect what one state gives back of that (ROME, arXiv 2202.05262, section 2).
    """

    base: str
    facts: tuple[TracedFact, ...]
    noise: float  # in standard deviations of the subjects' embeddings
    samples: int  # of noise for each fact
    seed: int
    window: int  # layers restored together, around the one named
    total: Effect
    layers: tuple[LayerEffect, ...]

    def ranking(self, kind: Kind = "moe") -> tuple[int, ...]:
        """The layers with experts, from the greatest indirect effect to the least."""
        known = [(each.effects[kind].mean, each.layer) for each in self.editable if kind in each.effects]
        return tuple(layer for _, layer in sorted(known, key=lambda pair: (-pair[0], pair[1])))

    @property
    def editable(self) -> tuple[LayerEffect, ...]:
        """The layers with experts."""
        return tuple(each for each in self.layers if each.experts)

    @property
    def clean(self) -> Effect:
        """The answers' probability without noise."""
        return _mean([fact.clean for fact in self.facts])

    @property
    def corrupted(self) -> Effect:
        """The answers' probability with noise."""
        return _mean([fact.corrupted for fact in self.facts])

    def to_json(self) -> dict[str, Any]:
        """All of it as a JSON object."""
        found = asdict(self)
        return found | {"clean": asdict(self.clean), "corrupted": asdict(self.corrupted)}


def _error(values: Tensor) -> float:
    return float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def _mean(values: Sequence[float]) -> Effect:
    return Effect.of(torch.tensor(values, dtype=torch.float64))

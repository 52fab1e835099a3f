"""Differences between two patches."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import JsonValue

from moe_patch.data.facts import Fact
from moe_patch.patch import LayerDelta, Patch
from moe_patch.solve.delta_algebra import delta_penalties, delta_product


@dataclass(frozen=True, slots=True)
class LayerDifference:
    """How much two patches' deltas of one layer differ, as Frobenius norms over all experts."""

    layer: int
    first: float  # norm of the first delta
    second: float  # norm of the second delta
    apart: float  # norm of the difference
    cosine: float  # between the two deltas; 0 if one of them is zero


@dataclass(frozen=True, slots=True)
class PatchDifference:
    """All differences between two patches."""

    same_base: bool
    removed: tuple[Fact, ...]
    added: tuple[Fact, ...]
    changed: tuple[tuple[Fact, Fact], ...]  # (before, after): the answer differs
    layers: tuple[LayerDifference, ...]
    settings: dict[str, tuple[JsonValue, JsonValue]]  # (first, second) by name; None if absent


def compare_patches(first: Patch, second: Patch) -> PatchDifference:
    """Compare two patches. Facts are matched by their questions: prompt and subject."""
    before = {fact.question: fact for fact in first.facts}
    after = {fact.question: fact for fact in second.facts}
    both = [(before[question], after[question]) for question in before if question in after]
    settings = [{"method": patch.method, **patch.hyperparameters} for patch in (first, second)]
    return PatchDifference(
        same_base=(first.base.config, first.base.index) == (second.base.config, second.base.index),
        removed=tuple(fact for question, fact in before.items() if question not in after),
        added=tuple(fact for question, fact in after.items() if question not in before),
        changed=tuple(pair for pair in both if pair[0].target_new != pair[1].target_new),
        layers=tuple(
            _layer(layer, first.layers.get(layer), second.layers.get(layer))
            for layer in sorted(first.layers.keys() | second.layers.keys())
        ),
        settings={
            name: (settings[0].get(name), settings[1].get(name))
            for name in sorted(settings[0].keys() | settings[1].keys())
            if settings[0].get(name) != settings[1].get(name)
        },
    )


def _layer(layer: int, first: LayerDelta | None, second: LayerDelta | None) -> LayerDifference:
    """||D - D'||^2 = ||D||^2 + ||D'||^2 - 2 <D, D'>, from the factors where there are no dense matrices."""
    norms = [math.sqrt(sum(delta_penalties(delta).values())) if delta else 0.0 for delta in (first, second)]
    if first is None or second is None or not all(norms):
        return LayerDifference(layer, norms[0], norms[1], math.hypot(*norms), 0.0)
    product = delta_product(first, second)
    apart = math.sqrt(max(0.0, norms[0] ** 2 + norms[1] ** 2 - 2 * product))
    return LayerDifference(layer, norms[0], norms[1], apart, product / (norms[0] * norms[1]))

"""The best options that a long search finds, judged by the facts that are edited: what no user can know.

First every layer is tried by itself, with a method's defaults. Then these and random candidates around the
best layers are built with a few of the facts, the better ones with more of them, and the best with all
(successive halving, Jamieson and Talwalkar, arXiv 1502.07943). Last, neighbours of the winner are tried, one
option of which is moved a little, as long as one is better.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from moe_patch.methods.delta import DeltaOptions
from moe_patch.solve.nullspace import DEFAULT_ENERGY
from moe_patch.targets.options import TargetOptions

SHARES = (0.2, 0.5, 1.0)
"""Of the facts, by round."""

KEPT = 1 / 3
"""Of the candidates, after each round."""

FINALISTS = 3
"""Candidates that are built with all facts at the least: few facts say little of how many fare together."""

TOP = 3
"""Layers at which candidates set their target values: those that are best by themselves."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Candidate options by dotted names, and how good they were."""

    options: dict[str, Any]
    utility: float  # percent
    perplexity: float  # with the patch on

    @property
    def rank(self) -> tuple[float, float]:
        """Greater is better: utility to half a point, then the language that is left."""
        return round(2 * self.utility), -self.perplexity


_SCALES: dict[str, float] = {
    "ridge": DeltaOptions.model_fields["ridge"].default,
    "energy": DEFAULT_ENERGY,
    **{
        f"targets.{name}": TargetOptions.model_fields[name].default
        for name in ("learning_rate", "clamp", "margin")
    },
}
"""The options that a refinement moves, with what stands for those that a candidate leaves open."""

Measure = Callable[[dict[str, Any], int], Trial | None]
"""Builds with options and the first facts, as many as given; None if that cannot be done."""


def best_layers(layers: Sequence[int], common: dict[str, Any], measure: Measure, facts: int) -> list[int]:
    """The layers that are best by themselves, with a method's defaults but for `common`."""
    alone = [measure({"layers": [layer]} | common, math.ceil(SHARES[0] * facts)) for layer in layers]
    found = sorted((t for t in alone if t is not None), key=lambda t: t.rank, reverse=True)
    return [trial.options["layers"][0] for trial in found[:TOP]]


def random_options(layers: Sequence[int], last: Sequence[int], rng: random.Random) -> dict[str, Any]:
    """One point of the space: where to edit, how strongly, what to protect, and how to search for targets.

    Args:
        layers: all that can be edited, ascending.
        last: those that may be the last one of an edit.
        rng: draws the point.
    """
    end, count = layers.index(rng.choice(last)) + 1, rng.choice((1, 1, 2, 3))
    options: dict[str, Any] = {
        "layers": list(layers[max(0, end - count) : end]),
        "ridge": _between(1e-3, 1.0, rng),
        "targets.learning_rate": _between(0.05, 0.6, rng),
        "targets.clamp": _between(0.5, 6.0, rng),
        "targets.weight_decay": rng.choice((0.0, 0.01, 0.1)),
        "targets.margin": rng.choice((0.0, 1.0, 3.0, 6.0)),
        "targets.share": rng.choice((0.4, 0.6, 0.8, 1.0)),
        "targets.contexts": rng.choice((0, 0, 5)),
    }
    energy = rng.choice((None, 0.8, 0.9, 0.95, 0.99, 0.999))
    return options | ({"projection": False} if energy is None else {"energy": energy})


def moved(options: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A neighbour of a point: one of its numbers is up to twice as large, or as small."""
    name = rng.choice([name for name in _SCALES if name != "energy" or options.get("projection", True)])
    value = options.get(name, _SCALES[name])
    found = value * math.exp(rng.uniform(-math.log(2), math.log(2)))
    if name == "energy":  # what is left counts, not what is protected
        found = 1 - (1 - value) * found / value
    return options | {name: float(f"{found:.3g}")}


def refined(best: Trial, measure: Measure, facts: int, rng: random.Random, tries: int) -> Trial:
    """The best of the winner and of `tries` neighbours, each of the best so far."""
    for _ in range(tries):
        found = measure(moved(best.options, rng), facts)
        if found is not None and found.rank > best.rank:
            best = found
    return best


def successive_halving(candidates: Sequence[dict[str, Any]], measure: Measure, facts: int) -> list[Trial]:
    """The trials of the last round, in which all facts are used; the best is first.

    Raises:
        ValueError: no candidate can be built.
    """
    left, found = list(candidates), list[Trial]()
    for share in SHARES:
        trials = [measure(options, math.ceil(share * facts)) for options in left]
        found = sorted((t for t in trials if t is not None), key=lambda t: t.rank, reverse=True)
        left = [trial.options for trial in found[: max(FINALISTS, math.ceil(KEPT * len(found)))]]
    if not found:
        raise ValueError(f"none of {len(candidates)} candidates can be built")
    return found


def _between(low: float, high: float, rng: random.Random) -> float:
    """A number of which every factor is equally likely, with three digits."""
    return float(f"{math.exp(rng.uniform(math.log(low), math.log(high))):.3g}")

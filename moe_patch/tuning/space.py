"""What a search varies: a few options, each with a few values around that of the default.

All are free of scale: layers, multiples of the size of the stream, nats of a margin, shares of the second
moment, multiples of the kernel's mean diagonal. So the same values make sense on every model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, JsonValue

from moe_patch.methods.overrides import option_names

Settings = dict[str, Any]
"""Options by dotted names."""

Point = tuple[int, ...]
"""One candidate of every dimension, by its number."""

_FACTORS = {"targets.clamp": (0.5, 0.7, 1.0, 1.5, 2.0), "ridge": (0.1, 0.3, 1.0, 3.0, 10.0)}
_MARGINS = (1.0, 2.0, 4.0, 8.0)
_ENERGIES = (0.8, 0.9, 0.95, 0.98, 0.99)
_CONTEXTS = (0, 2, 5)


@dataclass(frozen=True, slots=True)
class Dimension:
    """Something that is varied."""

    name: str
    candidates: tuple[Settings, ...]
    start: int  # the number of the default
    ordered: bool = True  # whether neighbours among the candidates are alike
    cheap: bool = False  # whether a change costs a solve and no search for target values


@dataclass(frozen=True, slots=True)
class Space:
    """All dimensions, in the order in which they are searched: what matters most comes first."""

    dimensions: tuple[Dimension, ...]

    @property
    def start(self) -> Point:
        """The defaults."""
        return tuple(dimension.start for dimension in self.dimensions)

    def settings(self, point: Point) -> Settings:
        """The options of a point by dotted names."""
        found: Settings = {}
        for dimension, number in zip(self.dimensions, point, strict=True):
            found |= dimension.candidates[number]
        return found

    def changes(self, point: Point) -> dict[str, JsonValue]:
        """The options of a point that are not those of the start."""
        start = self.settings(self.start)
        return {name: value for name, value in self.settings(point).items() if start.get(name) != value}

    def moved(self, point: Point, dimension: int, number: int) -> Point:
        """The point with another candidate of one dimension."""
        return (*point[:dimension], number, *point[dimension + 1 :])


def search_space(options: BaseModel, layers: Sequence[Sequence[int]], fixed: Sequence[str] = ()) -> Space:
    """The space around some options.

    Args:
        options: the start: a method's options, with layers.
        layers: lists of layers to try, besides those of the options.
        fixed: dotted names of options that are not varied.
    """
    known = set(option_names(type(options))) - set(fixed)
    values = options.model_dump()
    found: list[Dimension] = []
    if "layers" in known:
        own = tuple(options.layers)  # type: ignore[attr-defined]  # it is in `known`
        places = list(dict.fromkeys([own, *map(tuple, layers)]))
        found.append(Dimension("layers", tuple({"layers": list(p)} for p in places), 0, ordered=False))
    for name, factors in (("targets.clamp", _FACTORS["targets.clamp"]),):
        if name in known:
            found.append(_ladder(name, [_value(values, name) * factor for factor in factors], values))
    if "energy" in known and "projection" in known and _value(values, "projection"):
        found.append(_projections(values))
    if "ridge" in known:
        scaled = [_value(values, "ridge") * factor for factor in _FACTORS["ridge"]]
        found.append(_ladder("ridge", scaled, values, cheap=True))
    if "targets.margin" in known and _value(values, "targets.margin") is not None:
        found.append(_ladder("targets.margin", _MARGINS, values))
    if "targets.contexts" in known:
        found.append(_ladder("targets.contexts", _CONTEXTS, values))
    return Space(tuple(dimension for dimension in found if len(dimension.candidates) > 1))


def _ladder(
    name: str, candidates: Sequence[float], values: Mapping[str, Any], *, cheap: bool = False
) -> Dimension:
    """An ordered dimension of one option, with the default among the candidates."""
    own = _value(values, name)
    steps = sorted({*candidates, own})
    return Dimension(name, tuple({name: step} for step in steps), steps.index(own), cheap=cheap)


def _projections(values: Mapping[str, Any]) -> Dimension:
    """How much is protected, from all but everything to nothing."""
    own = values.get("energy")
    if own is None:  # a threshold in the model's units, which are left as they are
        kept: list[Settings] = [{"projection": True}, {"projection": False}]
        return Dimension("protection", tuple(kept), 0, cheap=True)
    steps = sorted({*_ENERGIES, own}, reverse=True)
    candidates: list[Settings] = [{"projection": True, "energy": step} for step in steps]
    candidates.append({"projection": False, "energy": own})
    return Dimension("protection", tuple(candidates), steps.index(own), cheap=True)


def _value(values: Mapping[str, Any], name: str) -> Any:
    found: Any = values
    for part in name.split("."):
        found = found[part]
    return found

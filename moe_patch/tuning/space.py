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
from moe_patch.solve.nullspace import DEFAULT_ENERGY

Settings = dict[str, Any]
"""Options by dotted names."""

Point = tuple[int, ...]
"""One candidate of every dimension, by its number."""

_PROTECTION = "protection"
_TIMES_DEFAULT = {
    "targets.clamp": (0.5, 0.7, 1.5, 2.0),
    "ridge": (0.1, 0.3, 3.0, 10.0),
    "epsilon": (0.1, 10.0),
}
_VALUES = {
    "targets.share": (0.4, 0.6, 0.8, 1.0),
    "targets.margin": (1.0, 3.0, 6.0),
    "targets.contexts": (0, 2, 5),
}
_ENERGIES = (0.8, 0.9, 0.95, 0.98, 0.99)
_ORDER = (
    "targets.clamp",
    "targets.share",
    _PROTECTION,
    "ridge",
    "epsilon",
    "targets.margin",
    "targets.contexts",
)
"""The dimensions after the layers."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """Something that is varied."""

    name: str
    candidates: tuple[Settings, ...]
    start: int  # the number of the default
    ordered: bool = True  # whether neighbours among the candidates are alike


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
        places = dict.fromkeys([values["layers"], *map(tuple, layers)])
        found.append(
            Dimension("layers", tuple({"layers": list(place)} for place in places), 0, ordered=False)
        )
    if _value(values, "targets.margin") is None:
        known -= {"targets.share"}  # it says what the margin is measured with
    for name in _ORDER:
        if name == _PROTECTION and values["projection"] and {"projection", "energy", "tau"} <= known:
            found.append(_protection(values))
        elif name in known and (own := _value(values, name)) is not None:
            found.append(_ladder(name, own))
    return Space(tuple(dimension for dimension in found if len(dimension.candidates) > 1))


def _ladder(name: str, own: float) -> Dimension:
    """An ordered dimension of one option, with its present value among the candidates."""
    others = [float(f"{factor * own:.3g}") for factor in _TIMES_DEFAULT.get(name, ())]
    steps = sorted({own, *others, *_VALUES.get(name, ())})
    return Dimension(name, tuple({name: step} for step in steps), steps.index(own))


def _protection(values: Mapping[str, Any]) -> Dimension:
    """How much is protected, from nearly everything to nothing."""
    if values["tau"] is not None:  # a threshold in the model's units, which are left as they are
        return Dimension(_PROTECTION, ({"projection": True}, {"projection": False}), 0)
    own = DEFAULT_ENERGY if values["energy"] is None else values["energy"]
    steps = sorted({*_ENERGIES, own}, reverse=True)
    candidates: list[Settings] = [{"projection": True, "energy": step} for step in steps]
    candidates.append({"projection": False, "energy": own})
    return Dimension(_PROTECTION, tuple(candidates), steps.index(own))


def _value(values: Mapping[str, Any], name: str) -> Any:
    found: Any = values
    for part in name.split("."):
        found = found[part]
    return found

"""A build's options, and where each that is no plain default came from.

What is given wins over a recipe, and a recipe over what is chosen by looking at the model. There is at most
one recipe: the one that is asked for, else one that ships for the model. What nothing speaks of is the
method's default.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.methods.base import Method, MethodOptions
from moe_patch.methods.overrides import merged_options
from moe_patch.methods.recipes import Recipe, load_recipe, recipe_for
from moe_patch.progress import Progress
from moe_patch.tuning.layers import early_layer

NO_RECIPE = "none"
"""The name that asks for no recipe, not even one that ships for the model."""

GIVEN, CHOSEN = "given", "chosen"
"""Where an option can come from, beside a recipe, which is called by its name."""

_LAYERS = ("layers", "layer")
"""The option that says where to edit, in the words of the methods."""


@dataclass(frozen=True, slots=True)
class Source:
    """One option that is no plain default."""

    option: str  # its dotted name
    value: JsonValue
    origin: str  # "given", "recipe NAME" or "chosen"
    reason: str = ""  # in a few words; empty where the origin says it all

    def describe(self) -> str:
        """Origin and reason, as a patch records them."""
        return f"{self.origin}: {self.reason}" if self.reason else self.origin

    def to_json(self) -> dict[str, JsonValue]:
        """The fields as plain data."""
        return {"option": self.option, "value": self.value, "from": self.origin, "why": self.reason}


@dataclass(frozen=True, slots=True)
class Choice:
    """The options of one build, and the sources of those that are no plain defaults."""

    options: MethodOptions
    sources: tuple[Source, ...]

    def to_json(self) -> list[JsonValue]:
        """The sources as plain data."""
        return [source.to_json() for source in self.sources]

    def record(self) -> dict[str, JsonValue]:
        """Each option's source in a line, as a patch records them among its hyper-parameters."""
        return {source.option: source.describe() for source in self.sources}


def choose(
    base: Base,
    facts: Sequence[Fact],
    method: Method[Any],
    *,
    given: Mapping[str, Any] | None = None,
    recipe: str | None = None,
    progress: Progress | None = None,
) -> Choice:
    """The options with which `method` should edit `facts` into `base`.

    Args:
        base: the model.
        facts: the facts to edit.
        method: the method.
        given: values by dotted names, which win over everything else.
        recipe: the name or path of a recipe; "none" for no recipe; None for the one that ships for the model,
            if there is one.
        progress: called with stages, where a choice takes time.

    Raises:
        ConfigError: there is no such recipe, an option is unknown or its value is not valid, or the model has
            no layer that can be chosen.
    """
    given = dict(given or {})
    found = _recipe(base, recipe)
    values = found.method_options(method.name) if found else {}
    place = f"recipe {found.name}" if found else ""
    options = merged_options(
        method.Options, values, given, place
    )  # mistakes show before anything is computed
    chosen = _chosen(base, options)
    if chosen:
        named = {source.option: source.value for source in chosen}
        options = merged_options(method.Options, values, named | given, place)
    origins = dict.fromkeys(_dotted(values), place) | dict.fromkeys(given, GIVEN)
    dumped = options.model_dump(mode="json")
    sources = [Source(name, _look_up(dumped, name), origin) for name, origin in origins.items()]
    return Choice(options, (*(source for source in sources if source.option not in _names(chosen)), *chosen))


def _recipe(base: Base, name: str | None) -> Recipe | None:
    """The recipe that is asked for, else the one that ships for the base."""
    if name == NO_RECIPE:
        return None
    return recipe_for(base) if name is None else load_recipe(name)


def _chosen(base: Base, options: MethodOptions) -> list[Source]:
    """What the options leave open and the model answers: so far the layers."""
    found = []
    for name in _LAYERS:
        if name in type(options).model_fields and getattr(options, name) in ((), None):
            layers = early_layer(base)
            found.append(Source(name, list(layers), CHOSEN, "a layer with experts a quarter of the way up"))
    return found


def _names(sources: Sequence[Source]) -> set[str]:
    return {source.option for source in sources}


def _dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted names of nested options."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def _look_up(values: Mapping[str, Any], name: str) -> JsonValue:
    """The value of a dotted name."""
    found: Any = values
    for part in name.split("."):
        found = found[part]
    value: JsonValue = found
    return value

"""A build's options, and where each that is no plain default came from.

What is given wins over a recipe, and a recipe over what is chosen by looking at the model. There is at most
one recipe: the one that is asked for, else one that ships for the model, else one that tuning found for it.
What nothing speaks of is the method's default.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import PromptStyle
from moe_patch.errors import ConfigError
from moe_patch.methods.base import Method, MethodOptions
from moe_patch.methods.overrides import merged_options
from moe_patch.methods.recipes import Recipe, load_recipe, recipe_for
from moe_patch.progress import Progress
from moe_patch.tuning.kept import kept_recipe
from moe_patch.tuning.layers import find_place

logger = logging.getLogger(__name__)

NO_RECIPE = "none"
"""The name that asks for no recipe, not even one that ships for the model."""

TUNED_RECIPE = "tuned"
"""The name that asks for the recipe that tuning found, even where another one ships for the model."""

GIVEN, CHOSEN = "given", "chosen"
"""Where an option can come from, beside a recipe, which is called by its name."""

OWN_TEXT = "own text"
"""What is shown as the corpus where there is none: the method lets the base write it."""

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
    ranking: tuple[int, ...] = ()  # layers with experts, those that carry most first; empty if not traced

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
        recipe: a name or a path; "none" for no recipe; "tuned" for the one that tuning found; None
            for the one that ships for the model, else for the one that tuning found, else for none.
        progress: called with stages, where a choice takes time.

    Raises:
        ConfigError: there is no such recipe, an option is unknown, or its value is not valid.
        MoePatchError: as for `find_place`, where the layers are left open.
    """
    given = dict(given or {})
    found = _find_recipe(base, method.name, recipe)
    options = merged_options(method.Options, found.values, given, found.place)  # mistakes show at once
    origins = dict.fromkeys(_dotted(found.values), (found.place, found.reason))
    origins |= dict.fromkeys(given, (GIVEN, ""))
    ranking: tuple[int, ...] = ()
    if (name := _open_layers(options)) is not None:
        place = find_place(base, facts, _style(options), progress)
        options = merged_options(method.Options, found.values, given | {name: place.layers}, found.place)
        ranking = place.ranking
        origins[name] = (CHOSEN, place.reason)
    dumped = options.model_dump(mode="json")
    sources = [Source(name, _look_up(dumped, name), *origin) for name, origin in origins.items()]
    return Choice(options, (*sources, *_own_text(options)), ranking)


@dataclass(frozen=True, slots=True)
class _Found:
    """What a recipe says of a method."""

    values: dict[str, Any]  # nested as in a recipe file
    place: str = ""
    reason: str = ""


def _find_recipe(base: Base, method: str, name: str | None) -> _Found:
    """The options of the recipe that counts."""
    if name == NO_RECIPE:
        return _Found({})
    if name is not None and name != TUNED_RECIPE:
        asked = load_recipe(name)
        _warn_of_another_base(base, asked)
        return _Found(asked.method_options(method), f"recipe {asked.name}", "it was asked for")
    shipped, kept = recipe_for(base), kept_recipe(base, method)
    if name == TUNED_RECIPE and kept is None:
        raise ConfigError(f"no tuned recipe for {base.name} and {method}: run moe-patch tune first")
    if name is None and shipped is not None and shipped.method_options(method):
        other = f"; --recipe {TUNED_RECIPE} takes the tuned one" if kept is not None else ""
        place, reason = f"recipe {shipped.name}", f"it ships for this model{other}"
        return _Found(shipped.method_options(method), place, reason)
    if kept is not None:
        return _Found(kept.method_options(method), f"recipe {kept.name}", "found by moe-patch tune")
    return _Found({})


def _warn_of_another_base(base: Base, recipe: Recipe) -> None:
    if recipe.base is not None and recipe.base != base.fingerprint([]).root:
        logger.warning(
            "recipe %s was found by tuning another model than %s: its options may not suit this one",
            recipe.name,
            base.name,
        )


def _open_layers(options: MethodOptions) -> str | None:
    """The option that says where to edit, if it is left open."""
    fields = type(options).model_fields
    return next((name for name in _LAYERS if name in fields and getattr(options, name) in ((), None)), None)


def _style(options: MethodOptions) -> PromptStyle:
    """How the method turns facts into text."""
    own: Any = options
    style: PromptStyle = (own.targets if hasattr(own, "targets") else own).style
    return style


def _own_text(options: MethodOptions) -> list[Source]:
    """What stands for preserved text where none is given."""
    if options.needs_text and getattr(options, "corpus", None) is None:
        return [Source("corpus", OWN_TEXT, CHOSEN, "no text is given, so the base writes some")]
    return []


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

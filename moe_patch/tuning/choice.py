"""A build's options, and where each that is no plain default came from.

What is given wins over a recipe, and a recipe over what is chosen by looking at the model. There is at most
one recipe: the one that is asked for, else one that ships for the model, else one that tuning found for it.
What nothing speaks of is the method's default.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import PromptStyle
from moe_patch.errors import ConfigError
from moe_patch.methods.base import Method, MethodOptions
from moe_patch.methods.overrides import dotted, merged_options
from moe_patch.methods.published import AS_PUBLISHED, published_options
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
        recipe: a name or a path; "none" for no recipe; "as-published" for the options of the method's paper;
            "tuned" for the one that tuning found; None for the one that ships for the model, else for the one
            that tuning found, else for none.
        progress: called with stages, where a choice takes time.

    Raises:
        ConfigError: there is no such recipe, an option is unknown, or its value is not valid.
        MoePatchError: as for `find_place`, where the layers are left open.
    """
    found = _find_recipe(base, method, recipe)
    choice = _settled(method, found, dict(given or {}))
    name = _open_layers(choice.options)
    if name is None:
        return choice
    place = find_place(base, facts, _style(choice.options), progress)
    layers = Source(name, list(place.layers), CHOSEN, place.reason)
    values = dict(given or {}) | {name: place.layers}
    options = merged_options(method.Options, found.values, values, found.place)
    others = tuple(source for source in choice.sources if source.option != name)
    return Choice(options, (*others, layers), place.ranking)


def settle(
    base: Base, method: Method[Any], *, given: Mapping[str, Any] | None = None, recipe: str | None = None
) -> Choice:
    """As `choose`, as far as it goes without weights: layers that nobody names stay open.

    A recipe that tuning found is not looked for, since it belongs to weights and not to a config.

    Raises:
        ConfigError: as for `choose`, or the tuned recipe is asked for.
    """
    if recipe == TUNED_RECIPE:
        raise ConfigError(
            f"the recipe {TUNED_RECIPE!r} belongs to a model's weights, which are not read here: "
            "name its file, as moe-patch tune wrote it"
        )
    return _settled(method, _find_recipe(base, method, recipe, weights=False), dict(given or {}))


def _settled(method: Method[Any], found: _Found, given: dict[str, Any]) -> Choice:
    """The options that follow from what is given and a recipe, with their sources."""
    options = merged_options(method.Options, found.values, given, found.place)
    origins = {name: (found.place, found.reason) for name, _ in dotted(found.values)}
    origins |= dict.fromkeys(given, (GIVEN, ""))
    dumped = options.model_dump(mode="json")
    sources = [Source(name, _look_up(dumped, name), *origin) for name, origin in origins.items()]
    return Choice(options, (*sources, *_own_text(options)))


@dataclass(frozen=True, slots=True)
class _Found:
    """What a recipe says of a method."""

    values: dict[str, Any]  # nested as in a recipe file
    place: str = ""
    reason: str = ""


def _find_recipe(base: Base, chosen: Method[Any], name: str | None, *, weights: bool = True) -> _Found:
    """The options of the recipe that counts. What tuning found is left out where there are no weights."""
    method = chosen.name
    if name == NO_RECIPE:
        return _Found({})
    if name is not None and name != TUNED_RECIPE:
        return _asked_for(base, chosen, name, weights=weights)
    shipped, tuned = recipe_for(base), kept_recipe(base, method) if weights else None
    if name == TUNED_RECIPE and tuned is None:
        raise ConfigError(f"no tuned recipe for {base.name} and {method}: run moe-patch tune first")
    if name is None and shipped is not None and shipped.method_options(method):
        other = f"; --recipe {TUNED_RECIPE} takes the tuned one" if tuned is not None else ""
        place, reason = f"recipe {shipped.name}", f"it ships for this model{other}"
        return _Found(shipped.method_options(method), place, reason)
    if tuned is not None:
        return _Found(tuned.method_options(method), f"recipe {tuned.name}", "found by moe-patch tune")
    return _Found({})


def _asked_for(base: Base, method: Method[Any], name: str, *, weights: bool) -> _Found:
    """The options of a recipe that is named."""
    if name == AS_PUBLISHED:
        values, model = published_options(base, method)
        return _Found(values, f"recipe {AS_PUBLISHED}", f"the paper's{', for ' + model if model else ''}")
    asked = load_recipe(name)
    if weights:
        _warn_of_another_base(base, asked)
    return _Found(asked.method_options(method.name), f"recipe {asked.name}", "it was asked for")


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


def _look_up(values: Mapping[str, Any], name: str) -> JsonValue:
    """The value of a dotted name."""
    found: Any = values
    for part in name.split("."):
        found = found[part]
    value: JsonValue = found
    return value

"""Hyper-parameters as data: one YAML file per model, holding the options of each method.

    name: atlas
    source: searched for on the demo model               # optional
    match: {model_type: qwen3_moe, hidden_size: 192}     # fields of the model's text config
    methods:
      moeedit: {layers: [0, 1], ridge: 0.001, corpus: corpus.txt}

A recipe is found by its name among those in the package, by its path, or by comparing its `match` with an
opened base. Paths of a corpus are relative to the recipe. One that was found by measuring a model also has
that model's fingerprint, as `base`.

No module that needs torch is imported, so that recipes are listed at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moe_patch.errors import ConfigError
from moe_patch.io import strict_json
from moe_patch.io.reading import read_text
from moe_patch.io.shipped import shipped_folder
from moe_patch.io.wording import did_you_mean
from moe_patch.methods.corpus_option import map_sources

if TYPE_CHECKING:
    from moe_patch.base.model import Base

_MAX_BYTES = 2**20
_SUFFIXES = {".yaml", ".yml"}


class Recipe(BaseModel):
    """One recipe file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    source: str | None = None  # whose options they are, in a few words
    match: dict[str, str | int | bool] = Field(min_length=1)  # fields of the model's text config
    methods: dict[str, dict[str, Any]]  # options by method
    base: str | None = None  # the root of the fingerprint of the model that it was measured on

    def method_options(self, method: str) -> dict[str, Any]:
        """The recipe's options for a method; empty if it has none."""
        return dict(self.methods.get(method, {}))

    def fits(self, base: Base) -> bool:
        """Whether every field of `match` has the same value in the base's text config."""
        config = base.model.config.get_text_config()
        return all(getattr(config, field, None) == value for field, value in self.match.items())


def shipped_recipes() -> Iterator[Path]:
    """The recipe files in the package, that of the demo model first."""
    root = shipped_folder()
    yield from sorted(root.glob("atlas/recipe.yaml"))
    yield from _paper_recipes()


def _paper_recipes() -> Iterator[Path]:
    """Those of models that papers have options for."""
    yield from sorted(shipped_folder().glob("models/*.yaml"))


def load_recipe(name: str | Path) -> Recipe:
    """A recipe by its path, or by its name among those in the package.

    Raises:
        ConfigError: there is no such recipe, or the file is not a recipe.
    """
    path = Path(name)
    if path.suffix in _SUFFIXES:
        return _read_recipe(path)
    known = {recipe.name: recipe for recipe in map(_read_recipe, shipped_recipes())}
    if str(name) not in known:
        raise ConfigError(
            f"unknown recipe {str(name)!r}: expected a .yaml file or one of {', '.join(known)}"
            f"{did_you_mean(str(name), known)}"
        )
    return known[str(name)]


def recipe_for(base: Base) -> Recipe | None:
    """The first recipe in the package that matches the base's config; None if there is none."""
    return next((recipe for recipe in map(_read_recipe, shipped_recipes()) if recipe.fits(base)), None)


def paper_recipe_for(base: Base) -> Recipe | None:
    """The recipe of the papers' options for this model; None if they have none for it."""
    return next((recipe for recipe in map(_read_recipe, _paper_recipes()) if recipe.fits(base)), None)


def parse_recipe(text: str, place: str | Path) -> Recipe:
    """The recipe of a YAML text.

    Args:
        text: the YAML.
        place: where it comes from, for messages.

    Raises:
        ConfigError: the text is not a recipe.
    """
    try:
        return Recipe.model_validate(yaml.safe_load(text))
    except ValidationError as error:
        raise ConfigError(f"{place} is not a recipe: {strict_json.first_complaint(error)}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{place} is not a recipe: it is not YAML in UTF-8: {' '.join(str(error).split())}"
        ) from error


def recipe_text(recipe: Recipe) -> str:
    """A recipe as YAML, which `parse_recipe` reads back."""
    fields = {name: value for name, value in recipe.model_dump(mode="json").items() if value is not None}
    text: str = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=100)
    return text


def _read_recipe(path: Path) -> Recipe:
    try:
        text = read_text(path, _MAX_BYTES)
    except OSError as error:
        raise ConfigError(f"cannot read the recipe {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not a recipe: it is not YAML in UTF-8: {error}") from error
    recipe = parse_recipe(text, path)
    for options in recipe.methods.values():
        if "corpus" in options:
            options["corpus"] = _placed(options["corpus"], path)
    return recipe


def _placed(sources: Any, path: Path) -> Any:
    """Sources of text that a recipe names, with paths that start at the recipe's folder."""
    try:
        return map_sources(sources, lambda source: source.from_folder(path.parent))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error

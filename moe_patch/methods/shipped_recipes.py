"""The recipes in the package, by the names that `--recipe` takes: those of models, and `as-published`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_patch.errors import ConfigError
from moe_patch.io.wording import did_you_mean
from moe_patch.methods.published import AS_PUBLISHED, published_path, read_published
from moe_patch.methods.recipes import load_recipe, shipped_recipes


@dataclass(frozen=True, slots=True)
class ShippedRecipe:
    """One recipe in the package."""

    name: str
    methods: dict[str, dict[str, Any]]  # options by method
    match: dict[str, str | int | bool] | None  # fields of the configs of its models; None for any model
    source: str | None  # whose options they are, in a few words
    path: Path


def list_recipes() -> Iterator[ShippedRecipe]:
    """All of them, that of the demo model first.

    Raises:
        ConfigError: a file is no recipe.
    """
    for path in shipped_recipes():
        recipe = load_recipe(path)
        yield ShippedRecipe(recipe.name, recipe.methods, recipe.match, recipe.source, path)
    published = read_published()
    yield ShippedRecipe(AS_PUBLISHED, published.methods, None, published.source, published_path())


def find_recipe(name: str) -> ShippedRecipe:
    """The recipe in the package with this name.

    Raises:
        ConfigError: there is none; the message lists the known ones.
    """
    known = {recipe.name: recipe for recipe in list_recipes()}
    if name not in known:
        raise ConfigError(
            f"unknown recipe {name!r}: expected one of {', '.join(known)}{did_you_mean(name, known)}"
        )
    return known[name]

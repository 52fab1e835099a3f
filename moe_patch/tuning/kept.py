"""Recipes that were found by tuning, kept in the cache by the fingerprint of their base."""

from __future__ import annotations

from typing import Any

import torch

from moe_patch.base.model import Base
from moe_patch.io import cache
from moe_patch.methods.recipes import Recipe, parse_recipe, recipe_text

_KIND = "recipes"


def keep_recipe(base: Base, recipe: Recipe) -> None:
    """Keep a recipe, by method, for later builds on this base; an earlier one of the same method goes."""
    for method in recipe.methods:
        text = recipe_text(recipe).encode()
        stored = {"yaml": torch.tensor(list(text), dtype=torch.uint8)}
        cache.store_tensors(_KIND, _address(base, method), stored)


def kept_recipe(base: Base, method: str) -> Recipe | None:
    """The recipe that was last kept for a method on this base; None if there is none.

    Raises:
        ConfigError: what is kept is not a recipe that this release reads.
    """
    stored = cache.load_tensors(_KIND, _address(base, method))
    return None if stored is None else parse_recipe(bytes(stored["yaml"].tolist()).decode(), "the cache")


def _address(base: Base, method: str) -> dict[str, Any]:
    return {"version": 1, "base": base.fingerprint([]).address(), "method": method}

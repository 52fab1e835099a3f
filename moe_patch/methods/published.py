"""The papers' own options, for any model: what `as-published` stands for.

    methods:
      moeedit: {solver: bcd, protect_earlier: false, ...}

They are in one file of the package. What a paper has for one model only is in that model's recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ConfigDict

from moe_patch.errors import ConfigError
from moe_patch.io.reading import read_text
from moe_patch.io.shipped import shipped_folder
from moe_patch.methods.recipes import paper_recipe_for

if TYPE_CHECKING:
    from moe_patch.base.model import Base
    from moe_patch.methods.base import Method

AS_PUBLISHED = "as-published"
"""The name that asks for the paper's options and for nothing else."""

_MAX_BYTES = 2**20


class Published(BaseModel):
    """The file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str  # whose options they are, in a few words
    methods: dict[str, dict[str, Any]]  # options by method


def published_path() -> Path:
    """The file in the package."""
    return shipped_folder() / "published" / f"{AS_PUBLISHED}.yaml"


def read_published() -> Published:
    """What is in the file."""
    return Published.model_validate(yaml.safe_load(read_text(published_path(), _MAX_BYTES)))


def published_options(base: Base, method: Method[Any]) -> tuple[dict[str, Any], str]:
    """A method's options as published, nested as in a recipe, and the model that some of them are for.

    Those that a paper has for this model win over those that it has for all. The model's name is empty if the
    papers do not have it. A method to compare with may have no options here: its defaults are published.

    Raises:
        ConfigError: the method is not of a paper whose options are known.
    """
    found = read_published().methods
    if method.name not in found and not method.rival:
        raise ConfigError(
            f"no published options of {method.pretty_name} are known: choose another recipe than "
            f"{AS_PUBLISHED}; there are those of {', '.join(sorted(found))}"
        )
    recipe = paper_recipe_for(base)
    own = {} if recipe is None else recipe.method_options(method.name)
    return _over(found.get(method.name, {}), own), recipe.name if recipe is not None and own else ""


def _over(values: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values, with those of `others` in their place."""
    joined = dict(values)
    for name, value in others.items():
        inner = joined.get(name)
        if isinstance(inner, Mapping) and isinstance(value, Mapping):
            joined[name] = _over(inner, value)
        else:
            joined[name] = value
    return joined

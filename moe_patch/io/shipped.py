"""Where to find the data that comes with the package: the demo model, recipes and facts.

In a checkout they are in the folder `recipes/`. An installation has them in the data package
`moe_patch.recipes`.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

DEMO = "atlas"
"""The name of the demo model."""


def shipped_folder() -> Path:
    """The folder that holds `atlas/`, `facts/`, `models/` and `published/`."""
    return Path(str(resources.files("moe_patch.recipes")))


def is_demo(name: str | Path | None) -> bool:
    """Whether a model is the demo model: it has no name, or the demo model's and no folder is called so."""
    return name is None or (str(name) == DEMO and not Path(name).is_dir())


def demo_model() -> Path:
    """The folder of atlas, the demo model, in the form that transformers opens."""
    return shipped_folder() / "atlas" / "model"

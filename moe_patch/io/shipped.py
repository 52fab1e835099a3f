"""Where the data is that comes with the package: the demo model, recipes and facts.

They lie in the folder `recipes/` of a checkout, and in a package of data alone where this is installed.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def shipped_folder() -> Path:
    """The folder that holds `atlas/`, `facts/` and `models/`."""
    return Path(str(resources.files("moe_patch.recipes")))


def demo_model() -> Path:
    """The folder of atlas, the demo model, in the form that transformers opens."""
    return shipped_folder() / "atlas" / "model"

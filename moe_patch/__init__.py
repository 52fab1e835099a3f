"""Small patches that change what a mixture-of-experts language model says about given facts.

    import moe_patch

    base = moe_patch.open_base()  # the demo model; or a name, or a folder
    patch = moe_patch.load("capitals.safetensors")
    with moe_patch.apply(base, patch):
        ...  # the model says the new facts; after the block it says the old ones again

The public names are imported on first use: torch and transformers take seconds to import, and `moe-patch
--help` needs neither.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moe_patch.apply import apply
    from moe_patch.apply.stack import Stack
    from moe_patch.base.model import Base
    from moe_patch.base.opening import open_base, wrap
    from moe_patch.building import build
    from moe_patch.data.fact_file import read_facts, write_facts
    from moe_patch.data.facts import Fact
    from moe_patch.errors import MoePatchError
    from moe_patch.evaluation import evaluate
    from moe_patch.methods import get_method
    from moe_patch.patch import Patch, load, save

__all__ = [
    "Base",
    "Fact",
    "MoePatchError",
    "Patch",
    "Stack",
    "apply",
    "build",
    "evaluate",
    "get_method",
    "load",
    "open_base",
    "read_facts",
    "save",
    "wrap",
    "write_facts",
]

_HOME = {
    "Base": "base.model",
    "Fact": "data.facts",
    "MoePatchError": "errors",
    "Patch": "patch",
    "Stack": "apply.stack",
    "build": "building",
    "evaluate": "evaluation",
    "get_method": "methods",
    "load": "patch",
    "open_base": "base.opening",
    "read_facts": "data.fact_file",
    "save": "patch",
    "wrap": "base.opening",
    "write_facts": "data.fact_file",
}


class _Package(ModuleType):
    """A module that finds its public names on first use.

    `apply` is a property. Otherwise, importing the subpackage `moe_patch.apply` would hide the function of
    the same name.
    """

    def __getattr__(self, name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version  # noqa: PLC0415 (takes a tenth of the time of `--help`)

            return version("moe-patch")
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})

    @property
    def apply(self) -> Any:
        """The function `moe_patch.apply.apply`."""
        return import_module(f"{__name__}.apply").apply

    @apply.setter
    def apply(self, subpackage: ModuleType) -> None: ...


sys.modules[__name__].__class__ = _Package

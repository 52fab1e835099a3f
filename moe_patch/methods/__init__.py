"""The editing methods. A new one is a file in this folder and one line here.

Imported by `cli`, and by the scripts in `recipes/`. It imports everything below but `checkpoint`. A method is
imported when it is first asked for: their names, which the command line completes, need no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from moe_patch.errors import ConfigError
from moe_patch.io.lazy_package import lazy_names
from moe_patch.io.wording import did_you_mean

if TYPE_CHECKING:
    from moe_patch.base.model import Base
    from moe_patch.methods.base import Method, MethodOptions
    from moe_patch.patch import Patch
    from moe_patch.progress import Progress

_CLASSES = {
    "moeedit": "moeedit.MoEEdit",
    "moeedit-penalty": "penalised.PenalisedMoEEdit",
    "mote": "mote.method.MoTE",
    "memoe": "memoe.method.MEMoE",
    "woodbury-spread": "spread.WoodburySpread",
    "bcd-spread": "spread.BcdSpread",
    "ft": "rivals.ft.FT",
    "ft-l": "rivals.ft_l.FTL",
    "ft-m": "rivals.ft_m.FTM",
    "locft-bf": "rivals.locft_bf.LocFTBF",
    "unke": "rivals.unke.UnKE",
    "memit": "rivals.memit.MEMIT",
    "alphaedit": "rivals.alphaedit.AlphaEdit",
    "ultraedit": "rivals.ultraedit.UltraEdit",
    "lora": "rivals.lora.LoRA",
    "adalora": "rivals.adalora.AdaLoRA",
    "grace": "rivals.grace.GRACE",
    "rag": "rivals.rag.RAG",
}


class _Methods(Mapping[str, "Method[Any]"]):
    """All methods by name, each made when it is first looked up."""

    def __init__(self) -> None:
        self._made: dict[str, Method[Any]] = {}

    def __getitem__(self, name: str) -> Method[Any]:
        if name not in self._made:
            module, _, kind = _CLASSES[name].rpartition(".")
            self._made[name] = getattr(import_module(f"{__name__}.{module}"), kind)()
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in _CLASSES

    def __iter__(self) -> Iterator[str]:
        return iter(_CLASSES)

    def __len__(self) -> int:
        return len(_CLASSES)


METHODS: Mapping[str, Method[Any]] = _Methods()


def get_method(name: str) -> Method[Any]:
    """The method called `name`.

    Raises:
        ConfigError: there is no such method; the message lists the known ones.
    """
    refuse_unknown(name)
    return METHODS[name]


def rewriter_of(base: Base, patch: Patch) -> Callable[[str], str] | None:
    """What turns a prompt into the one to ask with `patch`, by its method; None if it is asked as it is.

    Raises:
        PatchError: the patch does not hold what its method needs for that.
    """
    method = METHODS.get(patch.method)  # a stack's, or that of a newer release, rewrites nothing
    return None if method is None else method.rewriter(base, patch)


def refuse_unknown(name: str) -> None:
    """Check that there is a method of this name, without importing it.

    Raises:
        ConfigError: there is none; the message lists the known ones.
    """
    if name not in METHODS:
        known = ", ".join(sorted(METHODS))
        raise ConfigError(f"unknown method {name!r}: expected one of {known}{did_you_mean(name, METHODS)}")


__all__ = ["METHODS", "Method", "MethodOptions", "Progress", "get_method", "refuse_unknown", "rewriter_of"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "Method": "base",
            "MethodOptions": "base",
            "Progress": "base",
        },
    )

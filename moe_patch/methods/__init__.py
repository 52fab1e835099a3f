"""The editing methods. A new one is a file in this folder and one line here.

Imported by `cli`, and by the scripts in `recipes/`. It imports everything below but `checkpoint`.
"""

from __future__ import annotations

from typing import Any

from moe_patch.errors import ConfigError
from moe_patch.methods.base import Method, MethodOptions, Progress
from moe_patch.methods.memoe.method import MEMoE
from moe_patch.methods.moeedit import MoEEdit
from moe_patch.methods.mote.method import MoTE
from moe_patch.methods.rivals.ft import FT
from moe_patch.methods.rivals.ft_l import FTL
from moe_patch.methods.rivals.ft_m import FTM
from moe_patch.methods.rivals.locft_bf import LocFTBF
from moe_patch.methods.rivals.unke import UnKE
from moe_patch.methods.spread import BcdSpread, WoodburySpread

METHODS: dict[str, Method[Any]] = {
    method.name: method
    for method in (
        MoEEdit(),
        MoTE(),
        MEMoE(),
        WoodburySpread(),
        BcdSpread(),
        FT(),
        FTL(),
        FTM(),
        LocFTBF(),
        UnKE(),
    )
}  # fmt: skip


def get_method(name: str) -> Method[Any]:
    """The method called `name`.

    Raises:
        ConfigError: there is no such method; the message lists the known ones.
    """
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}: expected one of {', '.join(sorted(METHODS))}")
    return METHODS[name]


__all__ = ["METHODS", "Method", "MethodOptions", "Progress", "get_method"]

"""Patches and their files. `docs/format.md` specifies the format.

Everything above `data` may import this package. It imports `data` and `io`, and no transformers.
The names below are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe_patch.io.lazy_package import lazy_names

if TYPE_CHECKING:
    from moe_patch.patch.delta import LayerDelta
    from moe_patch.patch.dense import Dense
    from moe_patch.patch.file import load, save
    from moe_patch.patch.fingerprint import Fingerprint
    from moe_patch.patch.header import HeaderLimits
    from moe_patch.patch.patch import Patch, check_base, check_shapes, check_touched
    from moe_patch.patch.schema import content_hash

__all__ = [
    "Dense",
    "Fingerprint",
    "HeaderLimits",
    "LayerDelta",
    "Patch",
    "check_base",
    "check_shapes",
    "check_touched",
    "content_hash",
    "load",
    "save",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "Dense": "dense",
            "Fingerprint": "fingerprint",
            "HeaderLimits": "header",
            "LayerDelta": "delta",
            "Patch": "patch",
            "check_base": "patch",
            "check_shapes": "patch",
            "check_touched": "patch",
            "content_hash": "schema",
            "load": "file",
            "save": "file",
        },
    )

"""Patches and their files. `docs/format.md` specifies the format.

Everything above `data` may import this package. It imports `data` and `io`, and no transformers.
"""

from __future__ import annotations

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

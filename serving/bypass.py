"""Bypass patches inside vLLM: modules beside the experts, which no change of weights can stand for."""

from __future__ import annotations

from typing import NoReturn

from torch import nn

from moe_patch.errors import PatchError
from moe_patch.patch import Patch


def install_bypass(model: nn.Module, patch: Patch) -> NoReturn:
    """Put a bypass patch beside the MoE blocks of a served model; PatchError, as vLLM cannot run it yet."""
    raise PatchError(
        f"patch {patch.hash} is of kind {patch.kind!r}, which {type(model).__name__} cannot run in vLLM: use "
        "it with transformers, or build a patch of kind 'delta' from its facts"
    )

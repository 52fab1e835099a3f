"""The command line options that a server with a bypass needs."""

from __future__ import annotations

from pathlib import Path

from moe_patch.bypass import holds_codebook
from moe_patch.bypass.serialization import read_config
from moe_patch.errors import PatchError
from moe_patch.patch import Patch
from moe_patch.stack import load_enabled, read_lock

NO_PREFIX_CACHE = "--no-enable-prefix-caching"
NO_CHUNKS = "--no-enable-chunked-prefill"
NO_GRAPHS = ("--compilation-config", '{"cudagraph_mode": "NONE"}')  # compiled all the same


def stack_flags(lock_path: Path) -> list[str]:
    """The vLLM options that a stack's bypasses need; empty without bypasses.

    Raises:
        MoePatchError: the stack cannot be read, or vLLM cannot run one of its bypasses.
    """
    patches = [member.patch for member in load_enabled(read_lock(lock_path), lock_path)]
    for patch in patches:
        refuse_codebook(patch)
    tokens = {read_config(patch).tokens for patch in patches if patch.kind == "bypass"}
    flags = [NO_PREFIX_CACHE, *NO_GRAPHS] if tokens else []
    return [*flags, NO_CHUNKS] if "all" in tokens else flags


def refuse_codebook(patch: Patch) -> None:
    """Refuse a patch that holds a codebook: it replaces a block's output, and vLLM is only added to.

    Raises:
        PatchError: it does.
    """
    if holds_codebook(patch):
        raise PatchError(
            f"patch {patch.hash} holds a codebook, which vLLM cannot run beside a block: use it with "
            "transformers (moe_patch.apply), or build with another method"
        )

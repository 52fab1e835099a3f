"""A bypass: a few small experts beside one layer's feed-forward block, and the router that chooses one.

    bypass = read_bypass(patch)
    route = bypass.route(states, prompt)  # once for each prompt: an expert or LEAVE_ALONE, or gates
    output = block(x) + bypass(x, route)

Or a codebook (`codebook`), whose values take the place of the block's output where a prompt is near a key.

Everything here uses torch only, so that an inference engine can use it too. `moe_patch.apply.bypass` puts a
bypass into models of transformers. `apply`, `evaluation`, `methods`, serving and `cli` import this package.
It imports `patch` and the packages below it.
"""

from __future__ import annotations

from moe_patch.bypass.codebook import Codebook
from moe_patch.bypass.codebook_file import holds_codebook, read_codebook
from moe_patch.bypass.config import BypassConfig
from moe_patch.bypass.decision import (
    acting_tokens,
    declared_columns,
    declared_lengths,
    prompt_columns,
    prompt_lengths,
    prompt_mask,
    store_route,
    stored_route,
)
from moe_patch.bypass.gates import expert_gates
from moe_patch.bypass.module import Bypass, is_acting
from moe_patch.bypass.router import LEAVE_ALONE
from moe_patch.bypass.serialization import Routed, read_bypass, read_routed, write_bypass

__all__ = [
    "LEAVE_ALONE",
    "Bypass",
    "BypassConfig",
    "Codebook",
    "Routed",
    "acting_tokens",
    "declared_columns",
    "declared_lengths",
    "expert_gates",
    "holds_codebook",
    "is_acting",
    "prompt_columns",
    "prompt_lengths",
    "prompt_mask",
    "read_bypass",
    "read_codebook",
    "read_routed",
    "store_route",
    "stored_route",
    "write_bypass",
]

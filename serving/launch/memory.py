"""How much memory an engine on the CPU takes.

vLLM asks for 92% of a node's memory by default, as of a GPU that nothing else uses, and stops if less is
free. On a machine whose memory others share, that is nearly always so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor
from pathlib import Path

import psutil

OPTION = "--gpu-memory-utilization"

_DECIDED = (OPTION, "--kv-cache-memory-bytes")  # options after which vLLM does not use its default
_DECIDED_BY = "VLLM_CPU_KVCACHE_SPACE"
_SHARE = 0.5  # of what is free, for the weights and a cache of keys and values
_MOST = 0.9  # of what is free, for weights that half of it cannot hold
_BESIDE = 2**31  # bytes for the process and a small cache beside the weights


def cpu_memory_share(weights: int, arguments: Sequence[str], environment: Mapping[str, str]) -> float | None:
    """The share of all memory that an engine on the CPU should take; None if the user has decided.

    Args:
        weights: bytes of the weights in memory; 0 if they are not known.
        arguments: those of vLLM.
        environment: that of vLLM.
    """
    given = {argument.partition("=")[0].replace("_", "-") for argument in arguments}
    if given & set(_DECIDED) or environment.get(_DECIDED_BY):
        return None
    memory = psutil.virtual_memory()
    total, free = int(memory.total), int(memory.available)
    share = min(max(_SHARE * free, weights + _BESIDE), _MOST * free) / total
    return max(floor(share * 100) / 100, 0.01)


def stored_bytes(folder: Path) -> int:
    """The bytes of a checkpoint's weight files; 0 if it is not a folder."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) if folder.is_dir() else 0

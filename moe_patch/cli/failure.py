"""Failures of the machine that may reach a command from anywhere, in words."""

from __future__ import annotations

import sys

_NO_MEMORY = (
    "there is not enough memory: take smaller batches (--batch-size, --set targets.facts_per_pass=8), a "
    "smaller type (--dtype bfloat16), or spread the model (--device-map auto)"
)


def out_of_memory(error: BaseException) -> str | None:
    """What to say if a device or the machine has no memory left; None if the error is another."""
    torch = sys.modules.get("torch")  # without it, none of its errors is raised
    exhausted = isinstance(error, MemoryError) or (
        torch is not None and isinstance(error, torch.OutOfMemoryError)
    )
    on_cpu = type(error) is RuntimeError and "DefaultCPUAllocator" in str(error)
    return _NO_MEMORY if exhausted or on_cpu else None

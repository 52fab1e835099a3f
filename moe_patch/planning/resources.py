"""What a build will run on: this machine, measured, or GPUs that are named."""

from __future__ import annotations

import re
from dataclasses import dataclass

import psutil

from moe_patch.errors import ConfigError
from moe_patch.planning.machine import Machine, gpu
from moe_patch.planning.placement import GIB, Gpus
from moe_patch.planning.probe import Probed


@dataclass(frozen=True, slots=True)
class Resources:
    """Machine and memory."""

    machine: Machine
    gpus: Gpus | None  # None for the CPU alone
    ram: int  # bytes
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, gpus: str | None = None, ram: str | None = None) -> Resources:
        """What is described, else this machine.

        Args:
            gpus: a form such as "8xH100" or "80GiB"; None for this machine.
            ram: main memory, such as "128GiB"; None for that of this machine.

        Raises:
            ConfigError: one cannot be read.
        """
        memory = _bytes(ram) if ram else int(psutil.virtual_memory().total)
        if gpus is None:
            return cls(Probed(), None, memory)
        found = Gpus.parse(gpus)
        notes = () if found.named else (f"Of GPUs with this memory, the times are those of {found.kind}.",)
        return cls(gpu(found.kind, found.count), found, memory, notes)


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:GiB|GB|G)?", text.strip(), re.IGNORECASE)
    if found is None or not float(found[1]):
        raise ConfigError(f"cannot read the memory {text!r}: expected a form such as 128GiB")
    return int(float(found[1]) * GIB)

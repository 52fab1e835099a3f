"""The most memory that a piece of work takes, of the machine and of its accelerators."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass
from types import TracebackType

import psutil
import torch


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes before a piece of work, and the most during it."""

    host_before: int  # resident, of this process
    host_peak: int
    device_before: int | None  # allocated by torch, on all devices together; None without one
    device_peak: int | None

    def to_json(self) -> dict[str, int | None]:
        """The fields as plain data."""
        return asdict(self)


class PeakMemory:
    """Watches memory while it is entered; `found` is there afterwards.

    The machine's is looked at every now and then, so a shorter peak can be missed. torch counts its own
    allocations on devices, without a gap.

    Args:
        every: seconds between two looks at the machine's memory.
        files: whether pages of files count, which the machine can take back.
    """

    found: Memory

    def __init__(self, *, every: float = 0.02, files: bool = True) -> None:
        self._every, self._files = every, files

    def __enter__(self) -> PeakMemory:
        self._process = psutil.Process()
        self._before = self._peak = self._resident()
        self._device_before = _devices(peak=False)
        if torch.cuda.is_available():
            for number in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(number)
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._watch.join()
        peak = max(self._peak, self._resident())
        self.found = Memory(self._before, peak, self._device_before, _devices(peak=True))

    def _look(self) -> None:
        while not self._ended.wait(self._every):
            self._peak = max(self._peak, self._resident())

    def _resident(self) -> int:
        memory = self._process.memory_info()
        return int(memory.rss if self._files else memory.rss - memory.shared)


def _devices(*, peak: bool) -> int | None:
    """Bytes on all CUDA devices, now or at their peaks; None if there is none."""
    if not torch.cuda.is_available():
        return None
    read = torch.cuda.max_memory_allocated if peak else torch.cuda.memory_allocated
    return sum(read(number) for number in range(torch.cuda.device_count()))

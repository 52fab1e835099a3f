"""How fast a machine is, in the rates that counted work is divided by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from moe_patch.planning.outline import ModelOutline
from moe_patch.planning.work import Work


class Machine(Protocol):
    """Something that work takes time on."""

    @property
    def name(self) -> str:
        """For the report."""

    def seconds(self, work: Work, model: ModelOutline) -> float:
        """How long passes take."""

    def algebra(self, flops: float) -> float:
        """Seconds of dense products in fp32 with this many operations."""

    def decompose(self, size: int) -> float:
        """Seconds of one eigendecomposition of a symmetric matrix (size, size) in fp32."""

    def read(self, amount: float) -> float:
        """Seconds to read this many bytes of weights from the disk."""

    def hash(self, amount: float) -> float:
        """Seconds to hash this many bytes of weights."""


@dataclass(frozen=True, slots=True)
class Rates:
    """A machine by its rates: passes take as long as their operations or weights do, and a bit for calls."""

    name: str
    flops: float  # a second, in the dtype of the weights
    bandwidth: float  # bytes of weights a second
    algebra_flops: float  # a second, in fp32
    disk: float  # bytes a second
    hashing: float  # bytes a second
    call: float = 2e-5  # seconds of one operation of torch, however small
    devices: int = 1  # layers lie on them one after the other, so they do not add up

    def seconds(self, work: Work, model: ModelOutline) -> float:
        """By the roofline of each pass."""
        busy = max(work.flops(model) / self.flops, work.moved(model) / self.bandwidth)
        factor = 2.0 if work.kind == "search" else 1.0
        calls = sum(_calls(model.layers[index].experts) for index in work.layers)
        return busy + factor * work.passes * calls * self.call

    def algebra(self, flops: float) -> float:
        """At the rate of large products."""
        return flops / self.algebra_flops

    def decompose(self, size: int) -> float:
        """As many operations as LAPACK's divide and conquer takes with vectors, at a fifth of the rate."""
        return 5 * (9 * size**3) / self.algebra_flops

    def read(self, amount: float) -> float:
        """At the disk's rate."""
        return amount / self.disk

    def hash(self, amount: float) -> float:
        """At the rate of hashing."""
        return amount / self.hashing


def _calls(experts: int) -> int:
    """Operations of torch in a layer's pass: some for attention and norms, and some for each expert."""
    return 40 + 6 * math.ceil(experts)


GPUS: dict[str, tuple[float, float, float]] = {
    "A10": (125e12, 600e9, 24),
    "A100": (312e12, 2039e9, 80),
    "L4": (121e12, 300e9, 24),
    "L40S": (362e12, 864e9, 48),
    "H100": (989e12, 3350e9, 80),
    "H200": (989e12, 4800e9, 141),
    "B200": (2250e12, 8000e9, 192),
    "RTX3090": (71e12, 936e9, 24),
    "RTX4090": (165e12, 1008e9, 24),
    "MI300X": (1307e12, 5300e9, 192),
}
"""Published peaks: dense operations a second in bf16, bytes a second of memory, and GiB of memory."""

EFFICIENCY = 0.35
"""The share of the peaks that passes over some hundred tokens are taken to reach; reports state it."""


def gpu(name: str, count: int = 1) -> Rates:
    """A GPU by its published peaks.

    Raises:
        KeyError: it is not in `GPUS`.
    """
    flops, bandwidth, _ = GPUS[name]
    return Rates(
        name=f"{count} x {name}, by its published peaks",
        flops=EFFICIENCY * flops,
        bandwidth=EFFICIENCY * bandwidth,
        algebra_flops=EFFICIENCY * flops / 16,  # fp32 without tensor cores
        disk=1e9,
        hashing=1.4e9,
        devices=count,
    )

"""The numbers that a quantised weight can take: a table of codes, times a scale for each block."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """A format of few numbers: `values` (n,) fp32, ascending, and the `codes` (n,) uint8 that say them.

    `meanings` (2^bits,) has what every code says: -0, which is in the table as 0, and NaN for none.
    """

    values: Tensor
    codes: Tensor
    meanings: Tensor

    @classmethod
    def of(cls, meanings: Tensor) -> Grid:
        """The grid of a format in which code c means `meanings[c]`, fp32; NaN for codes that mean none."""
        codes = meanings.isfinite().nonzero().squeeze(1)
        codes = codes[~((meanings[codes] == 0) & meanings[codes].signbit())]
        order = meanings[codes].argsort()
        return cls(meanings[codes][order], codes[order].to(torch.uint8), meanings)

    def meaning(self, codes: Tensor) -> Tensor:
        """The number, fp32, that each code stands for."""
        return self.meanings[codes.long()]

    def around(self, exact: Tensor) -> tuple[Tensor, Tensor]:
        """For numbers in units of their scales, the place in the table of the nearest and of the next beyond.

        Where a number lies outside of the table, or on one of its own, both are the same.
        """
        between = (self.values[1:] + self.values[:-1]) / 2  # (n - 1,)
        nearest = torch.bucketize(exact, between)
        beyond = nearest + (exact - self.values[nearest]).sign().long()
        return nearest, beyond.clamp(0, len(self.values) - 1)


E2M1 = Grid.of(torch.tensor([s * m for s in (1.0, -1.0) for m in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)]))
"""Four bits: sign, two of exponent, one of mantissa (OCP Microscaling Formats 1.0)."""

E4M3 = Grid.of(torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float())
"""Eight bits: sign, four of exponent, three of mantissa, no infinity (OCP 8-bit Floating Point 1.0)."""

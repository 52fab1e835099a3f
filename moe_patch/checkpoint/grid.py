"""The values that a quantised weight can take: a table of codes, times a scale for each block."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The values of a number format with few bits, in a table."""

    values: Tensor  # (n,) fp32, ascending, without -0
    codes: Tensor  # (n,) uint8, the code of each value
    meanings: Tensor  # (2^bits,) fp32, the value of every code, -0 included; NaN for codes without a value

    @classmethod
    def of(cls, meanings: Tensor) -> Grid:
        """The grid of a format in which code c has the value `meanings[c]`, fp32; NaN if it has none."""
        codes = meanings.isfinite().nonzero().squeeze(1)
        codes = codes[~((meanings[codes] == 0) & meanings[codes].signbit())]
        order = meanings[codes].argsort()
        return cls(meanings[codes][order], codes[order].to(torch.uint8), meanings)

    def meaning(self, codes: Tensor) -> Tensor:
        """The value, fp32, of each code."""
        return self.meanings[codes.long()]

    def around(self, exact: Tensor) -> tuple[Tensor, Tensor]:
        """For each number, the table places of the nearest value and of the next one on its other side.

        The two are the same for a number that is outside of the table's range or equal to a value.

        Args:
            exact: numbers in units of their scales.
        """
        between = (self.values[1:] + self.values[:-1]) / 2  # (n - 1,)
        nearest = torch.bucketize(exact, between)
        beyond = nearest + (exact - self.values[nearest]).sign().long()
        return nearest, beyond.clamp(0, len(self.values) - 1)


E2M1 = Grid.of(torch.tensor([s * m for s in (1.0, -1.0) for m in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)]))
"""Four bits: sign, two of exponent, one of mantissa (OCP Microscaling Formats 1.0)."""

E4M3 = Grid.of(torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float())
"""Eight bits: sign, four of exponent, three of mantissa, no infinity (OCP 8-bit Floating Point 1.0)."""

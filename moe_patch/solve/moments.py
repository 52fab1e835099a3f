"""Second moments of one layer's keys, by expert."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Second moments of the keys that a text sends to each expert of one layer."""

    layer: int
    second: Tensor  # (E, d_k, d_k) fp32: sum of k k^T over an expert's tokens
    tokens: Tensor  # (E,) int64: how many tokens reached each expert

    def __add__(self, other: Moments) -> Moments:
        """The moments of both texts together, which are of the same layer."""
        return Moments(self.layer, self.second + other.second, self.tokens + other.tokens)

    def mean(self, expert: int) -> Tensor:
        """E[k k^T] over the expert's tokens, (d_k, d_k) fp64; NaN for an expert that no token reached."""
        return self.second[expert].double() / self.tokens[expert]

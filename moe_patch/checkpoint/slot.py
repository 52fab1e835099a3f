"""Where one expert's down projection is stored in floats, and how it is read and written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from moe_patch.apply.weights.rounding import round_on_keys
from moe_patch.checkpoint.shards import read_span


@dataclass(frozen=True, slots=True)
class Slot:
    """The part of a file that holds one down projection."""

    name: str  # of the tensor that holds it
    file: str
    begin: int  # bytes from the start of the file
    end: int
    dtype: torch.dtype
    shape: tuple[int, int]  # (d_m, d_k)
    transposed: bool  # stored as (d_k, d_m)

    @property
    def files(self) -> set[str]:
        """The files that the weight is in."""
        return {self.file}

    def read(self, folder: Path, file: Path | None = None) -> Tensor:
        """The weight (d_m, d_k); read from `file` if it is given."""
        flat = torch.frombuffer(read_span(file or folder / self.file, self.begin, self.end), dtype=self.dtype)
        return flat.view(self.shape[::-1]).T if self.transposed else flat.view(self.shape)

    def write(self, folder: Path, exact: Tensor, keys: Tensor) -> tuple[memoryview, Tensor]:
        """The bytes of a weight (d_m, d_k) rounded for keys (n, d_k), and the rounded weight."""
        rounded = round_on_keys(exact, self.dtype, keys)  # (d_m, d_k)
        stored = (rounded.T if self.transposed else rounded).contiguous()
        return stored.view(torch.uint8).numpy().data.cast("B"), rounded

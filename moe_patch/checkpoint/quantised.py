"""Down projections stored in few bits: MXFP4 and FP8 experts are read, and written with other codes.

Only codes change. The scale of a block stays, so untouched weights keep their bytes, and a weight is rounded
to values that its block can hold already. Four bits leave little room for a small edit. What is lost is
measured like any other rounding, and compensated rounding keeps most of the edit on the facts' own keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from moe_patch.apply.weights.rounding import choose_on_keys
from moe_patch.checkpoint.grid import E2M1, E4M3, Grid
from moe_patch.checkpoint.shards import Span, read_span
from moe_patch.errors import ModelError

METHODS = ("mxfp4", "fp8")
"""The quantisation methods that are supported, by their names in configs."""

CODES, SCALES = "_blocks", "_scales"
"""The name endings of the two tensors that hold a packed parameter."""

QUANTISED = ("U8", "F8_E4M3")
"""The dtypes of codes: that of MXFP4, with two codes in a byte, and that of FP8."""

_GRIDS = {"U8": E2M1, "F8_E4M3": E4M3}
_SCALES = {"U8": torch.uint8, "F32": torch.float32, "BF16": torch.bfloat16, "F8_E8M0": torch.uint8}
_BIAS = 127  # exponent bias of scales in U8 and F8_E8M0
_MXFP4_BLOCK = 32


@dataclass(frozen=True, slots=True)
class QuantisedSlot:
    """Where the codes of one expert's down projection are stored, and the scales that multiply them."""

    name: str  # of the tensor that holds the codes
    file: str
    begin: int  # bytes from the start of the file
    end: int
    code: str  # the dtype of the codes, as safetensors spells it
    shape: tuple[int, int]  # (d_m, d_k)
    scale_file: str
    scale_begin: int
    scale_end: int
    scale: str  # the dtype of the scales
    scale_shape: tuple[int, int]  # blocks along d_m and along d_k
    dtype: torch.dtype  # of the weight in memory, as the model computes with it and fingerprints hash it

    @property
    def files(self) -> set[str]:
        """The files that the weight is in."""
        return {self.file, self.scale_file}

    def read(self, folder: Path, file: Path | None = None) -> Tensor:
        """The weight (d_m, d_k) in the dtype of the model; codes are read from `file` if it is given."""
        grid, codes = _GRIDS[self.code], self._codes(file or folder / self.file)
        return (grid.meaning(codes) * self._scales(folder)).to(self.dtype)

    def write(self, folder: Path, exact: Tensor, keys: Tensor) -> tuple[memoryview, Tensor]:
        """The codes' bytes for a weight (d_m, d_k) rounded for keys (n, d_k), and the rounded weight."""
        grid, scale, codes = _GRIDS[self.code], self._scales(folder), self._codes(folder / self.file)
        place = place_on_grid(grid, exact, scale, keys)
        same = grid.values[place] == grid.meaning(codes)  # keeps the code of -0
        codes = torch.where(same, codes, grid.codes[place])
        return self._pack(codes), (grid.values[place] * scale).to(self.dtype)

    def _codes(self, path: Path) -> Tensor:
        """The codes (d_m, d_k), one in each byte."""
        stored = torch.frombuffer(read_span(path, self.begin, self.end), dtype=torch.uint8)
        if self.code == "U8":  # two in a byte, the lower half first
            stored = torch.stack((stored & 0xF, stored >> 4), dim=-1)
        return stored.view(self.shape)

    def _pack(self, codes: Tensor) -> memoryview:
        if self.code == "U8":
            pairs = codes.reshape(-1, 2)
            codes = pairs[:, 0] | (pairs[:, 1] << 4)
        return codes.contiguous().numpy().data.cast("B")

    def _scales(self, folder: Path) -> Tensor:
        """The scale of each element, (d_m, d_k) fp32."""
        raw = read_span(folder / self.scale_file, self.scale_begin, self.scale_end)
        stored = torch.frombuffer(raw, dtype=_SCALES[self.scale]).view(self.scale_shape)
        scale = (stored.float() - _BIAS).exp2() if stored.dtype == torch.uint8 else stored.float()
        sides = [-(-side // blocks) for side, blocks in zip(self.shape, self.scale_shape, strict=True)]
        rows = scale.repeat_interleave(sides[0], 0)[: self.shape[0]]
        return rows.repeat_interleave(sides[1], 1)[:, : self.shape[1]]


def place_on_grid(grid: Grid, exact: Tensor, scale: Tensor, keys: Tensor) -> Tensor:
    """Round each element of a weight to a value of the grid so that outputs for some keys change least.

    A first pass may move an element from the nearest value to the next one on the other side of its exact
    value. A second pass may move it one step the other way. It is needed because most of an edit is smaller
    than half a step: all first steps then go in the edit's direction, and only opposite steps can balance an
    overshoot.

    Args:
        grid: the values.
        exact: (d_m, d_k) fp32, the weight.
        scale: (d_m, d_k) fp32, the scale of each element.
        keys: (n, d_k); without any, every element takes the nearest value.

    Returns:
        (d_m, d_k) int64, places in the grid's table.
    """
    place, beyond = grid.around(exact / scale)
    first = beyond - place
    for step in (first, -first):
        other = (place + step).clamp(0, len(grid.values) - 1)
        taken = choose_on_keys(exact, grid.values[place] * scale, grid.values[other] * scale, keys)
        place = torch.where(taken, other, place)
    return place


def is_packed(name: str, spans: Mapping[str, Span]) -> bool:
    """Whether a tensor holds codes in packed form, with its scales in another tensor."""
    return name.endswith(CODES) and name.removesuffix(CODES) + SCALES in spans


def is_scale(name: str, spans: Mapping[str, Span]) -> bool:
    """Whether a tensor holds the scales of another one."""
    if name.endswith(SCALES):
        return name.removesuffix(SCALES) + CODES in spans
    return name.endswith("_scale_inv") and name.removesuffix("_scale_inv") in spans


def has_scales(name: str, spans: Mapping[str, Span]) -> bool:
    """Whether a tensor is multiplied by the scales of another one."""
    return is_packed(name, spans) or f"{name}_scale_inv" in spans


def meant_shape(span: Span) -> tuple[int, ...]:
    """The shape of what codes mean: (out, in), or (E, out, in) of a stack."""
    packed = span.dtype == "U8"  # (..., out, in / 32, 16)
    return (*span.shape[:-2], span.shape[-2] * _MXFP4_BLOCK) if packed else span.shape


def quantised_slot(
    shape: tuple[int, int],
    dtype: torch.dtype,
    span: Span,
    part: tuple[int, int],
    number: int,
    spans: Mapping[str, Span],
) -> QuantisedSlot:
    """The slot of one matrix: an expert's, or a tensor's only one.

    Args:
        shape: (out, in) of the matrix.
        dtype: of the weight in memory.
        span: the tensor with the codes.
        part: begin and end of the expert's codes, in bytes from the start of the file.
        number: of the expert.
        spans: all tensors of the checkpoint by name.

    Raises:
        ModelError: the scales are missing, or shapes or dtypes are not those of MXFP4 or FP8.
    """
    mxfp4 = span.dtype == "U8"
    scales = spans.get(span.name.removesuffix(CODES) + SCALES if mxfp4 else f"{span.name}_scale_inv")
    if scales is None or scales.dtype not in _SCALES:
        raise ModelError(f"{span.name} is quantised ({span.dtype}), but its scales are missing")
    blocks = scales.shape[-2:]
    expected = (shape[0], shape[1] // _MXFP4_BLOCK, _MXFP4_BLOCK // 2) if mxfp4 else shape
    grid = expected[:2] if mxfp4 else blocks
    if (span.shape if len(span.shape) == len(expected) else span.shape[1:]) != expected or blocks != grid:
        raise ModelError(
            f"{span.name} is {span.dtype} of shape {span.shape}, with scales of shape {scales.shape}: "
            f"expected {expected} for each expert"
        )
    begin, end = scales.part(number) if len(scales.shape) > len(blocks) else (scales.begin, scales.end)
    return QuantisedSlot(
        name=span.name,
        file=span.file,
        begin=part[0],
        end=part[1],
        code=span.dtype,
        shape=shape,
        scale_file=scales.file,
        scale_begin=begin,
        scale_end=end,
        scale=scales.dtype,
        scale_shape=(blocks[0], blocks[1]),
        dtype=dtype,
    )

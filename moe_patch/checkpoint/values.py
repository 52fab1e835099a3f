"""Reading stored tensors, whole or in parts, in the dtype in which a model has them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from moe_patch.base.digests import RUN
from moe_patch.checkpoint.quantised import QUANTISED, has_scales, meant_shape, quantised_slot
from moe_patch.checkpoint.shards import Span, fill_span
from moe_patch.errors import ModelError

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip

_buffers = threading.local()  # one for each thread: fresh memory takes longer to fill


class SpanReader:
    """Reads the tensors of a checkpoint. A float is rounded only if the asked dtype does not hold it."""

    def __init__(self, folder: Path, spans: Mapping[str, Span]) -> None:
        self._folder, self._spans = folder, spans

    def run(self, span: Span, number: int, dtype: torch.dtype) -> Tensor:
        """Run `number` of a tensor's elements, (n,); valid until this thread reads the next one."""
        begin, end = run_bounds(span, number)
        if len(getattr(_buffers, "raw", b"")) < end - begin:
            _buffers.raw = bytearray(end - begin)
        raw = memoryview(_buffers.raw)[: end - begin]
        fill_span(self._folder / span.file, begin, raw)
        return _rounded(torch.frombuffer(raw, dtype=_dtype(span)) if raw else torch.zeros(0), dtype)

    def tensor(self, span: Span, dtype: torch.dtype, number: int | None = None) -> Tensor:
        """A tensor, or its slice `number` along the first dimension; codes are read as what they mean.

        Raises:
            ModelError: the file changed, or the tensor is stored in an unknown way.
        """
        if self.is_coded(span):
            return self._meant(span, dtype, number)
        begin, end = (span.begin, span.end) if number is None else span.part(number)
        raw = torch.empty(end - begin, dtype=torch.uint8)  # not filled twice, as a bytearray would be
        fill_span(self._folder / span.file, begin, raw.numpy().data)
        shape = span.shape if number is None else span.shape[1:]
        return _rounded(raw.view(_dtype(span)).view(shape), dtype)

    def is_coded(self, span: Span) -> bool:
        """Whether a tensor holds codes, which mean something together with scales."""
        return span.dtype in QUANTISED and has_scales(span.name, self._spans)

    def _meant(self, span: Span, dtype: torch.dtype, number: int | None) -> Tensor:
        """What codes mean: a matrix, a stack of them, or matrix `number` of a stack."""
        shape = meant_shape(span)
        if len(shape) == 3 and number is None:
            return torch.stack([self._meant(span, dtype, each) for each in range(shape[0])])
        part = (span.begin, span.end) if number is None else span.part(number)
        slot = quantised_slot((shape[-2], shape[-1]), dtype, span, part, number or 0, self._spans)
        meant = slot.read(self._folder)  # (out, in)
        return meant.T if span.dtype == "U8" else meant  # transformers turns what was MXFP4


def run_bounds(span: Span, number: int) -> tuple[int, int]:
    """Begin and end, in the file, of run `number` of a tensor's elements."""
    size = RUN * _dtype(span).itemsize
    begin = span.begin + number * size
    return begin, min(begin + size, span.end)


def _dtype(span: Span) -> torch.dtype:
    if span.dtype not in _DTYPES:
        raise ModelError(f"{span.name} is stored as {span.dtype}: expected one of {', '.join(_DTYPES)}")
    return _DTYPES[span.dtype]


def _rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    holds = not values.is_floating_point() or torch.promote_types(values.dtype, dtype) == dtype
    return values if holds else values.to(dtype)

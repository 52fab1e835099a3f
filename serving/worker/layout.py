"""Conversion between a kernel's memory layout of a down projection and the plain (d_m, d_k) matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from vllm._custom_ops import cpu_prepack_moe_weight

from moe_patch.errors import ModelError

_AS_IS = {"TRITON", "BATCHED_TRITON", "FLASHINFER_CUTLASS"}
"""Names of the backends whose `convert_to_unquantized_kernel_format` leaves w2 as (E, d_m, d_k)."""

_BASE = 256  # the largest power of two up to which bf16 and fp16 represent all integers


class Layout(Protocol):
    """A memory layout of a matrix. `pack` undoes `unpack` bit for bit."""

    def unpack(self, stored: Tensor) -> Tensor:
        """A plain copy (d_m, d_k) of the stored matrix, with the kernel's padding."""
        ...

    def pack(self, plain: Tensor) -> Tensor:
        """The stored form of a plain matrix of the same size."""
        ...


class AsIs:
    """The plain matrix."""

    def unpack(self, stored: Tensor) -> Tensor:
        """A copy."""
        return stored.clone()

    def pack(self, plain: Tensor) -> Tensor:
        """The same."""
        return plain


@dataclass(frozen=True, slots=True, eq=False)
class Permuted:
    """The elements of the matrix in another order."""

    order: Tensor  # (d_m * d_k,) int64: for each stored element, its index in the plain matrix

    def unpack(self, stored: Tensor) -> Tensor:
        """The elements back in their places."""
        plain = torch.empty_like(stored, memory_format=torch.contiguous_format)
        plain.view(-1)[self.order] = stored.reshape(-1)
        return plain

    def pack(self, plain: Tensor) -> Tensor:
        """The elements in the kernel's order."""
        return plain.reshape(-1)[self.order].view(plain.shape)


def learn_order(prepack: Callable[[Tensor], Tensor], rows: int, columns: int, dtype: torch.dtype) -> Permuted:
    """Find the order in which `prepack` stores the elements of a matrix, by packing a matrix of indices.

    Indices are packed digit by digit, because half precision cannot represent large ones.

    Args:
        prepack: maps (1, rows, columns) to as many elements. Its order may depend on `dtype`.

    Raises:
        ModelError: `prepack` does not only reorder elements.
    """
    count = rows * columns
    number, order, unit = torch.arange(count), torch.zeros(count, dtype=torch.int64), 1
    while unit < count:
        digit = (number // unit % _BASE).to(dtype).view(1, rows, columns)
        order += unit * prepack(digit).reshape(-1).long()
        unit *= _BASE
    if not torch.equal(order.sort().values, number):
        raise ModelError(
            "the kernel's packing of experts is no reordering: serve with the load format instead"
        )
    return Permuted(order)


def layout_of(experts: Any) -> Layout:
    """The layout of `w2_weight` in the kernel of a `RoutedExperts`.

    Raises:
        ModelError: the experts are quantised, or the layout of their kernel is unknown.
    """
    method = experts.quant_method
    backend = getattr(getattr(method, "unquantized_backend", None), "name", None)
    if backend in _AS_IS:
        return AsIs()
    if backend == "CPU":
        return _cpu_layout(experts)
    if backend is None:
        raise ModelError(
            f"{experts.layer_name} keeps its experts by {type(method).__name__}: only experts that are not "
            "quantised can be patched while they serve. Load the patch with --load-format moe_patch, before "
            "vLLM quantises, or serve it as a LoRA adapter"
        )
    raise ModelError(
        f"{experts.layer_name} runs on the kernel {backend}, whose layout is not known here: start vLLM with "
        "--moe-backend triton, or load the patch with --load-format moe_patch"
    )


def _cpu_layout(experts: Any) -> Layout:
    kernel = experts.quant_method.moe_kernel.fused_experts
    if kernel._use_zentorch:
        return AsIs()
    _, rows, columns = experts.w2_weight.shape
    return learn_order(
        lambda weight: cpu_prepack_moe_weight(weight, kernel.isa), rows, columns, experts.w2_weight.dtype
    )

"""A device that is not the CPU, simulated on it: tensors there refuse to meet tensors elsewhere, as on a GPU.

Every tensor on it holds one in the CPU's memory, with which the arithmetic is done. What is checked is where
tensors are: operators take them from one device only, but for copies, numbers without a dimension, and
indices, as torch's kernels for GPUs do. The device is torch's place for others' ("privateuseone"), and stays
for as long as the process lives.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("simulated")
DEVICE = torch.device("simulated", 0)

_aten = torch.ops.aten
_COPIES = {_aten.copy_.default, _aten._to_copy.default}
_INDEXED = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default}


class There(Tensor):
    """A tensor on the device, and the one in memory that has its numbers."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> There:
        place = {"storage_offset": here.storage_offset(), "dtype": here.dtype, "device": DEVICE}
        there = Tensor._make_wrapper_subclass(cls, here.size(), here.stride(), **place)
        there.here = here
        return there

    def tolist(self) -> Any:
        """What comes back from any device without being asked; `numpy()` does not."""
        return self.here.tolist()

    def data_ptr(self) -> int:
        """An address, as tensors have on any device."""
        return self.here.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        """What holds the numbers, which tells whether two tensors share them."""
        return self.here.untyped_storage()

    def __deepcopy__(self, memo: dict[int, Any]) -> There:
        return There(self.here.clone())

    @classmethod
    def __torch_dispatch__(cls, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        _refuse_mixed(operator, args, named)
        there = named.get("device") in (None, DEVICE)
        if there and "device" in named:
            named["device"] = torch.device("cpu")
        if operator is _aten.histc.default:  # which GPUs take of whole numbers as well
            args = (args[0].float(), *args[1:])
        out = operator(*_inner(args), **_inner(named))
        wrapped = tree_map(lambda leaf: There(leaf) if there and isinstance(leaf, Tensor) else leaf, out)
        return return_and_correct_aliasing(operator, args, kwargs or {}, wrapped)


def move(module: nn.Module) -> None:
    """Put the parameters and buffers of a model, or of a part of one, on the device."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            part._parameters[name] = nn.Parameter(There(parameter.data), parameter.requires_grad)
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = There(buffer)


def _inner(value: Any) -> Any:
    return tree_map(lambda leaf: leaf.here if isinstance(leaf, There) else leaf, value)


def _refuse_mixed(operator: Any, args: Any, named: dict[str, Any]) -> None:
    if operator in _COPIES:
        return
    if operator in _INDEXED and isinstance(args[0], There):
        args = (args[0], *args[2:])  # its indices may be elsewhere
    tensors = [leaf for leaf in tree_flatten((args, named))[0] if isinstance(leaf, Tensor)]
    elsewhere = [tensor for tensor in tensors if not isinstance(tensor, There) and tensor.dim()]
    if elsewhere and len(elsewhere) < len(tensors):
        raise RuntimeError(f"{operator}: expected all tensors on one device, found {DEVICE} and cpu")


def _empty(size: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return There(torch.empty(size, dtype=dtype))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return There(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    _inner(target).copy_(_inner(source))
    return target


_kernels = torch.library.Library("aten", "IMPL")  # what makes tensors where there were none
_kernels.impl("empty.memory_format", _empty, "PrivateUse1")
_kernels.impl("empty_strided", _empty_strided, "PrivateUse1")
_kernels.impl("_copy_from", _copy_from, "PrivateUse1")

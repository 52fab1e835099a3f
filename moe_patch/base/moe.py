"""One decoder layer's experts in the live model."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from accelerate.utils import align_module_device
from torch import Tensor, nn

from moe_patch.errors import ModelError

_originals: MutableMapping[nn.Module, dict[int, Tensor]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class MoELayer:
    """One decoder layer's experts."""

    index: int  # of the decoder layer
    name: str  # path of the experts module in the model
    experts: nn.Module = field(repr=False)
    num_experts: int  # E
    d_model: int  # d_m
    d_key: int  # d_k
    layout: str  # how down projections are stored: "out_in" is (E, d_m, d_k), "in_out" is (E, d_k, d_m)
    warning: str | None  # why the closed form is not exact in this layer; None if it is

    @contextmanager
    def weights(self) -> Iterator[Tensor]:
        """All down projections (E, d_m, d_k): a view of the live weights, or a copy of offloaded ones.

        Raises:
            ModelError: the weights have no data.
        """
        with align_module_device(self.experts):
            stored = self.stored.detach()
            if stored.device.type == "meta":
                raise ModelError(f"{self.name}.down_proj has no data: load the model's weights first")
            yield stored.transpose(1, 2) if self.layout == "in_out" else stored

    def down(self, expert: int) -> Tensor:
        """One down projection (d_m, d_k): a view of the live weight, or a copy of an offloaded one.

        Raises:
            ModelError: there is no such expert, or the weights have no data.
        """
        if not 0 <= expert < self.num_experts:
            raise ModelError(f"{self.name} has experts 0 to {self.num_experts - 1}, not {expert}")
        with self.weights() as stacked:
            return stacked[expert].clone() if self.offloaded else stacked[expert]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(E, d_m, d_k), whatever the layout."""
        return self.num_experts, self.d_model, self.d_key

    @property
    def originals(self) -> dict[int, Tensor]:
        """Down projections (d_m, d_k) as they were before a merge, by expert.

        Code that merges stores them here. They belong to the live module and not to this object. So a model
        with merged patches is recognised even if it is wrapped again.
        """
        return _originals.setdefault(self.experts, {})

    @property
    def offloaded(self) -> bool:
        """Whether accelerate stores the weights elsewhere and loads them only for each forward pass."""
        return bool(getattr(getattr(self.experts, "_hf_hook", None), "offload", False))

    @property
    def device(self) -> torch.device:
        """The device on which the experts run."""
        hook: Any = getattr(self.experts, "_hf_hook", None)
        return torch.device(hook.execution_device) if self.offloaded else self.stored.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.stored.dtype

    @property
    def place(self) -> tuple[nn.Module, str]:
        """The module that holds the down projections, and the attribute."""
        return self.experts, "down_proj"

    @property
    def stored(self) -> Tensor:
        """The parameter that holds all down projections, in its layout."""
        return cast("Tensor", self.experts.down_proj)

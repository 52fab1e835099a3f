"""One decoder layer's experts, as they live in the model."""

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
    """One decoder layer's experts.

    `layout` names how the down projections are stored: "out_in" is (E, d_m, d_k), "in_out" is (E, d_k, d_m).
    `warning` says why the closed form is not exact in this layer, where it is not.
    """

    index: int
    name: str
    experts: nn.Module = field(repr=False)
    num_experts: int
    d_model: int
    d_key: int
    layout: str
    warning: str | None

    @contextmanager
    def weights(self) -> Iterator[Tensor]:
        """All down projections (E, d_m, d_k): a view on the live weights, or a copy of offloaded ones."""
        with align_module_device(self.experts):
            stored = self._down_proj.detach()
            if stored.device.type == "meta":
                raise ModelError(f"{self.name}.down_proj has no data: load the model's weights first")
            yield stored.transpose(1, 2) if self.layout == "in_out" else stored

    def down(self, expert: int) -> Tensor:
        """One down projection (d_m, d_k): a view on the live weight, or a copy of an offloaded one."""
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
        """Down projections (d_m, d_k) as they were before a merge, by expert; whoever merges keeps them here.

        They belong to the live module and not to this view of it, so that the model is recognised under its
        patches however it is wrapped.
        """
        return _originals.setdefault(self.experts, {})

    @property
    def offloaded(self) -> bool:
        """Whether accelerate keeps the weights elsewhere and loads them for each forward pass only."""
        return bool(getattr(getattr(self.experts, "_hf_hook", None), "offload", False))

    @property
    def device(self) -> torch.device:
        """Where the experts run."""
        hook: Any = getattr(self.experts, "_hf_hook", None)
        return torch.device(hook.execution_device) if self.offloaded else self._down_proj.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are stored in."""
        return self._down_proj.dtype

    @property
    def _down_proj(self) -> Tensor:
        return cast("Tensor", self.experts.down_proj)

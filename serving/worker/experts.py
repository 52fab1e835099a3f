"""The down projections in one vLLM worker: which experts, which columns, and in which layout."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts
from vllm.model_executor.models.utils import extract_layer_index

from moe_patch.apply.weights.finite import require_finite
from moe_patch.apply.weights.summed import patched_weight
from moe_patch.base.moe import MoELayer
from moe_patch.errors import ModelError
from moe_patch.patch import LayerDelta
from moe_patch_serving.worker.layout import Layout, layout_of


def rank_columns(d_key: int, rank: int, size: int) -> slice:
    """The columns of a down projection that rank `rank` of `size` tensor-parallel workers holds.

    Raises:
        ModelError: the columns cannot be divided evenly. vLLM would not have loaded such a model either.
    """
    width, over = divmod(d_key, size)
    if over:
        raise ModelError(f"{d_key} columns cannot be divided evenly among {size} workers")
    return slice(rank * width, (rank + 1) * width)


def local_slot(expert: int, expert_map: Tensor | None) -> int | None:
    """The index of an expert among those of this worker; None if another worker holds it.

    Args:
        expert_map: (E,) the index of each expert in this worker, or -1; None if every worker has all experts.
    """
    if expert_map is None:
        return expert
    slot = int(expert_map[expert])
    return None if slot < 0 else slot


@dataclass(frozen=True)
class ServedLayer:
    """One layer's down projections in a worker: a view on the live `w2_weight`."""

    index: int  # of the decoder layer in the whole model
    d_model: int
    d_key: int
    columns: slice  # of d_k, in this worker
    expert_map: Tensor | None = field(repr=False)  # (E,)
    weight: nn.Parameter = field(repr=False)  # (E here, >= d_m, >= columns here), in the kernel's layout
    layout: Layout = field(repr=False)

    def slot(self, expert: int) -> int | None:
        """The index of an expert in this worker; None if it is not here."""
        return local_slot(expert, self.expert_map)

    def stored(self, expert: int) -> Tensor:
        """An expert of this worker in the kernel's layout, as a view."""
        slot = self.slot(expert)
        assert slot is not None
        return self.weight.data[slot]

    def edited(self, stored: Tensor, expert: int, deltas: Iterable[LayerDelta]) -> Tensor:
        """An expert in the kernel's layout, with deltas added in fp32, in their order, and rounded once.

        Args:
            stored: the expert without the deltas, in the kernel's layout, on any device.

        Raises:
            NotFinite: the sum exceeds the range of the weights' dtype.
        """
        plain = self.layout.unpack(stored.to(self.weight.device))
        inner = plain[: self.d_model, : self.columns.stop - self.columns.start]  # without padding
        inner.copy_(patched_weight(inner, expert, deltas, columns=self.columns))
        require_finite(inner, self.index, expert)
        return self.layout.pack(plain)

    def replaced(self, stored: Tensor, expert: int, weight: Tensor) -> Tensor:
        """An expert in the kernel's layout with another weight (d_m, d_k), and its padding as it is.

        Args:
            stored: the expert in the kernel's layout, on any device.

        Raises:
            NotFinite: the weight exceeds the range of the served dtype.
        """
        plain = self.layout.unpack(stored.to(self.weight.device))
        inner = plain[: self.d_model, : self.columns.stop - self.columns.start]  # without padding
        inner.copy_(weight[:, self.columns])
        require_finite(inner, self.index, expert)
        return self.layout.pack(plain)


class ServedExperts:
    """All layers of routed experts in a worker's share of a model, by decoder layer."""

    def __init__(self, model: nn.Module) -> None:
        self._modules: dict[int, Any] = {}
        for module in model.modules():  # by class: vLLM's releases differ in the name
            if isinstance(module, RoutedExperts):
                index = extract_layer_index(module.layer_name)
                if index in self._modules:
                    raise ModelError(f"layer {index} has two sets of routed experts: not supported")
                self._modules[index] = module
        self._served: dict[int, ServedLayer] = {}

    def layer(self, known: MoELayer) -> ServedLayer | None:
        """This worker's part of a layer of the base; None if the layer is on another pipeline stage.

        Raises:
            ModelError: the layer cannot be edited: its layout is unknown, its experts move between workers,
                or its sizes differ from those of the base.
        """
        if known.index not in self._served:
            if known.index not in self._modules:
                return None
            self._served[known.index] = _served(known, self._modules[known.index])
        return self._served[known.index]


def _served(known: MoELayer, module: Any) -> ServedLayer:
    config = module.moe_config
    parallel = config.moe_parallel_config
    if parallel.enable_eplb:
        raise ModelError("with EPLB, experts move between workers: serve without --enable-eplb")
    share = rank_columns(known.d_key, parallel.tp_rank, parallel.tp_size)
    found = (
        module.global_num_experts,
        config.hidden_dim_unpadded,
        config.intermediate_size_per_partition_unpadded,
    )
    expected = (known.num_experts, known.d_model, share.stop - share.start)
    if found != expected:
        raise ModelError(
            f"{module.layer_name} serves experts of sizes (E, d_m, d_k here) {found}; the base has {expected}"
        )
    return ServedLayer(
        index=known.index,
        d_model=known.d_model,
        d_key=known.d_key,
        columns=share,
        expert_map=None if module._expert_map is None else module._expert_map.cpu(),
        weight=module.w2_weight,
        layout=layout_of(module),
    )

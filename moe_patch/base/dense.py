"""Layers without experts: finding their feed-forward block and its down projection.

No delta can edit such a layer, but a bypass can run beside it. The base's fingerprint then contains the hash
of the block's down projection, as if it were that of a single expert.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from accelerate.utils import align_module_device
from torch import Tensor, nn

from moe_patch.errors import ModelError

_BLOCKS = ("mlp", "feed_forward", "ffn", "mixer")
_DOWN = ("down_proj", "c_proj", "fc2", "w2", "fc_out", "dense_4h_to_h", "output_linear", "wo")
_STORED_IN_OUT = "Conv1D"  # of GPT-2: the only linear layer in transformers whose weight is (in, out)


@dataclass(frozen=True, slots=True)
class DenseLayer:
    """One decoder layer's feed-forward block, treated as a single expert."""

    index: int  # of the decoder layer
    name: str  # of the down projection, for messages
    block: nn.Module = field(repr=False)
    down: nn.Module = field(repr=False)  # the linear layer of the down projection

    num_experts = 1

    @contextmanager
    def weights(self) -> Iterator[Tensor]:
        """The down projection (1, d_m, d_k): a view of the live weight, or a copy of an offloaded one.

        Raises:
            ModelError: the weight has no data.
        """
        with align_module_device(self.down):
            weight: Any = self.down.weight
            if weight.device.type == "meta":
                raise ModelError(f"{self.name} has no data: load the model's weights first")
            oriented = weight.detach().T if type(self.down).__name__ == _STORED_IN_OUT else weight.detach()
            yield oriented[None]

    @property
    def originals(self) -> dict[int, Tensor]:
        """Always empty, since no patch is ever merged into a dense layer."""
        return {}

    @property
    def place(self) -> tuple[nn.Module, str]:
        """The module that holds the down projection, and the attribute."""
        return self.down, "weight"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(1, d_m, d_k)."""
        weight: Any = self.down.weight
        first, second = weight.shape
        return (1, second, first) if type(self.down).__name__ == _STORED_IN_OUT else (1, first, second)


def dense_layer(index: int, layer: nn.Module) -> DenseLayer:
    """The feed-forward block of a decoder layer without experts.

    Raises:
        ModelError: no block with a down projection has a known name, or the weight is quantised.
    """
    children = dict(layer.named_children())
    for name in _BLOCKS:
        if name not in children:
            continue
        for leaf, module in children[name].named_children():
            weight = getattr(module, "weight", None)
            if leaf in _DOWN and isinstance(weight, nn.Parameter) and weight.ndim == 2:
                if not weight.is_floating_point() or weight.element_size() < 2:
                    raise ModelError(f"{leaf} of layer {index} is quantised: open the model in a float dtype")
                return DenseLayer(index, f"{name}.{leaf} of layer {index}", children[name], module)
    raise ModelError(
        f"layer {index} has no feed-forward block of a known form: expected one of {', '.join(_BLOCKS)} with "
        f"one of {', '.join(_DOWN)}, found {', '.join(children)}"
    )


def dense_decoder(model: Any) -> nn.ModuleList:
    """The decoder layers of a model without experts.

    Raises:
        ModelError: the decoder does not have exactly one list of them.
    """
    depth = model.config.get_text_config().num_hidden_layers
    lists = [
        module
        for module in model.get_decoder().children()
        if isinstance(module, nn.ModuleList) and len(module) == depth
    ]
    if len(lists) != 1:
        raise ModelError(f"expected one list of {depth} decoder layers, found {len(lists)}")
    return lists[0]

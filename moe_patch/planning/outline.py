"""A model by its config alone: what its layers hold, and what a token costs in each.

The model is made on torch's meta device, where tensors have shapes and no data, so sizes are exact for every
architecture that transformers knows. One pass over a few tokens there counts the operations. Experts are left
out of it and counted by themselves: how many of them a token visits is what the router answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, PreTrainedConfig

from moe_patch.base.classes import read_config, text_class
from moe_patch.base.model import Base
from moe_patch.base.opening import wrap
from moe_patch.base.refusal import transformers_reads
from moe_patch.io.model_place import ModelPlace, find_model

_TOKENS = 8  # of the pass that counts operations


@dataclass(frozen=True, slots=True)
class LayerOutline:
    """One decoder layer."""

    index: int
    parameters: int  # experts included
    flops: float  # of a token's forward pass, without experts
    experts: int = 0  # 0 in a dense layer
    top_k: int = 0  # experts that a token visits
    expert_parameters: int = 0  # of one expert
    d_key: int = 0

    @property
    def token_flops(self) -> float:
        """Operations of a token's forward pass: two for each weight that it meets, and attention."""
        return self.flops + 2.0 * self.top_k * self.expert_parameters

    @property
    def kind(self) -> tuple[float, ...]:
        """Layers of one kind cost the same."""
        return (self.parameters, self.flops, self.experts, self.top_k, self.expert_parameters)


@dataclass(frozen=True, slots=True)
class ModelOutline:
    """A model's sizes."""

    name: str
    model_type: str
    dtype: torch.dtype
    parameters: int
    hidden: int  # d_m
    vocabulary: int
    layers: tuple[LayerOutline, ...]
    base: Base = field(repr=False, compare=False)  # on the meta device

    @property
    def bytes(self) -> int:
        """Of all weights."""
        return self.parameters * self.dtype.itemsize

    @property
    def editable(self) -> tuple[int, ...]:
        """The layers with experts."""
        return tuple(layer.index for layer in self.layers if layer.experts)

    @property
    def head_flops(self) -> float:
        """Operations of the logits of one token."""
        return 2.0 * self.hidden * self.vocabulary


def outline_model(place: str | Path | None, dtype: torch.dtype | None = None) -> ModelOutline:
    """The outline of a model.

    Args:
        place: a name on the Hub, a folder, or a config.json; None for the demo model.
        dtype: that its weights will have; None for that of its config.

    Raises:
        ModelError: there is no config, transformers does not know its type or cannot make the model, or the
            model cannot be edited.
    """
    config_file = place is not None and Path(place).is_file()
    found = ModelPlace(str(place), None) if config_file else find_model(place)
    config = _read(found.source)
    with transformers_reads(f"the model {found.source!r}", do="outline"), torch.device("meta"):
        model = text_class(config).from_config(config)
    return outline_base(wrap(model.eval(), None, found.name), dtype)


def outline_base(base: Base, dtype: torch.dtype | None = None) -> ModelOutline:
    """The outline of a model on the meta device.

    Raises:
        ModelError: it cannot run a pass.
    """
    text = base.model.config.get_text_config()
    top_k, flops = _count(base)
    return ModelOutline(
        name=base.name,
        model_type=text.model_type,
        dtype=dtype or text.dtype or torch.float32,
        parameters=sum(parameter.numel() for parameter in base.model.parameters()),
        hidden=base.hidden_size,
        vocabulary=text.vocab_size,
        layers=tuple(
            _layer(base, index, top_k.get(index, 0), flops[index]) for index in range(base.num_layers)
        ),
        base=base,
    )


def _read(name: str) -> PreTrainedConfig:
    """The config at a name, in a folder, or of a file."""
    if not Path(name).is_file():
        return read_config(name)
    with transformers_reads(f"the config {name!r}"):
        return cast("PreTrainedConfig", AutoConfig.from_pretrained(name))


def _layer(base: Base, index: int, top_k: int, flops: float) -> LayerOutline:
    parameters = sum(parameter.numel() for parameter in base.decoder_layers[index].parameters())
    if index not in base.layers:
        return LayerOutline(index, parameters, flops)
    layer = base.layers[index]
    held = sum(parameter.numel() for parameter in layer.experts.parameters())
    count = layer.num_experts
    return LayerOutline(index, parameters, flops, count, top_k, held // count, layer.d_key)


def _count(base: Base) -> tuple[dict[int, int], list[float]]:
    """Experts that a token visits, by layer, and the operations of each decoder layer for one token."""
    top_k: dict[int, int] = {}
    ids = torch.zeros((1, _TOKENS), dtype=torch.long, device="meta")
    flops = [0.0] * base.num_layers
    with _without_experts(base, top_k), transformers_reads(f"the model {base.name!r}", do="outline"):
        counter = FlopCounterMode(display=False)
        with _counted(base.decoder_layers, counter, flops), counter, torch.no_grad():
            cast("Any", base.decoder)(input_ids=ids, use_cache=True)  # else values of the mask are read
    return top_k, [count / _TOKENS for count in flops]


@contextmanager
def _counted(layers: nn.ModuleList, counter: FlopCounterMode, flops: list[float]) -> Iterator[None]:
    """While this is on, a pass adds each layer's operations to `flops`."""
    handles = []
    for index, layer in enumerate(layers):

        def before(*_: Any, at: int = index) -> None:
            flops[at] -= counter.get_total_flops()

        def after(*_: Any, at: int = index) -> None:
            flops[at] += counter.get_total_flops()

        handles += [layer.register_forward_pre_hook(before), layer.register_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _without_experts(base: Base, top_k: dict[int, int]) -> Iterator[None]:
    """While this is on, experts add nothing and note how many of them each token was sent to."""

    def stub(index: int) -> Callable[..., Tensor]:
        def forward(hidden: Tensor, top_k_index: Tensor, *_: Any, **__: Any) -> Tensor:
            top_k[index] = top_k_index.shape[-1]
            return torch.empty_like(hidden)

        return forward

    try:
        for index, layer in base.layers.items():
            layer.experts.forward = stub(index)
        yield
    finally:
        for layer in base.layers.values():
            del layer.experts.forward

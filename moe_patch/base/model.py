"""A base model: its layers, its device, and the fingerprint that identifies it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn

from moe_patch.base.dense import DenseLayer, dense_layer
from moe_patch.base.hashing import down_hash, settled_config
from moe_patch.base.moe import MoELayer
from moe_patch.errors import ModelError
from moe_patch.patch import Fingerprint
from moe_patch.patch.fingerprint import in_ranges, sha256_json


@dataclass(slots=True)
class Base:
    """A model, with its tokenizer, that patches are built on and applied to."""

    model: Any = field(repr=False)  # a transformers PreTrainedModel, whose methods have no types
    tokenizer: Any = field(repr=False)
    name: str
    layers: dict[int, MoELayer] = field(repr=False)  # the MoE layers, by decoder index
    decoder_layers: nn.ModuleList = field(repr=False)  # all layers, dense ones included
    _hashes: dict[int, str] = field(default_factory=dict, repr=False)  # by decoder index, once computed

    @property
    def num_layers(self) -> int:
        """The number of decoder layers, dense ones included."""
        return len(self.decoder_layers)

    @property
    def decoder(self) -> nn.Module:
        """The model without its language-modelling head."""
        return cast("nn.Module", self.model.get_decoder())

    @property
    def device(self) -> torch.device:
        """The device on which the model expects its inputs."""
        hook = getattr(self.model, "_hf_hook", None)
        device = getattr(hook, "execution_device", None)
        return self.model.device if device is None else torch.device(device)

    @property
    def hidden_size(self) -> int:
        """d_m, the width of the residual stream."""
        return int(self.model.config.get_text_config().hidden_size)

    def layer(self, index: int) -> MoELayer:
        """The MoE layer at decoder index `index`.

        Raises:
            ModelError: the layer is dense or out of range.
        """
        if not 0 <= index < self.num_layers:
            raise ModelError(
                f"layer {index} is out of range: {self.name} has layers 0 to {self.num_layers - 1}"
            )
        if index not in self.layers:
            raise ModelError(
                f"layer {index} of {self.name} is dense; its MoE layers are {in_ranges(self.layers)}"
            )
        return self.layers[index]

    def feed_forward(self, index: int) -> MoELayer | DenseLayer:
        """The layer at decoder index `index`, which may be dense.

        Raises:
            ModelError: the index is out of range, or the layer is dense and its block is not of a known form.
        """
        if index in self.layers or not 0 <= index < self.num_layers:
            return self.layer(index)
        return dense_layer(index, self.decoder_layers[index])

    def fingerprint(self, layers: Iterable[int]) -> Fingerprint:
        """The identity of this base for a patch that edits `layers`. Merged patches do not change it.

        Raises:
            ModelError: as for `feed_forward`.
        """
        numbers, config = sorted(layers), self.model.config.get_text_config()
        shapes = [[number, *self.layers[number].shape] for number in sorted(self.layers)]
        index = {
            "layers": shapes,
            "depth": self.num_layers,
            "vocabulary": config.vocab_size,
            "hidden": self.hidden_size,
        }
        for number in numbers:
            if number not in self._hashes:
                self._hashes[number] = down_hash(self.feed_forward(number))
        return Fingerprint(
            model_type=config.model_type,
            config=sha256_json(settled_config(config)),
            index=sha256_json(index),
            experts={number: self._hashes[number] for number in numbers},
            shapes={number: self.feed_forward(number).shape for number in numbers},
        )

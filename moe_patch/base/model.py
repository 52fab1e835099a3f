"""A base model: its layers, its device, and the fingerprint that identifies it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from moe_patch.base.dense import DenseLayer, dense_layer
from moe_patch.base.hashing import down_hash, settled_config
from moe_patch.base.leaves import live_pieces
from moe_patch.base.moe import MoELayer
from moe_patch.base.origin import Origin
from moe_patch.base.parts import Part, hash_nodes, model_parts
from moe_patch.base.tokens import token_hashes
from moe_patch.data.reader import Reader
from moe_patch.errors import ModelError
from moe_patch.patch import Fingerprint
from moe_patch.patch.fingerprint import in_ranges, sha256_json
from moe_patch.progress import Progress


@dataclass(slots=True)
class Base:
    """A model, with its tokenizer, that patches are built on and applied to."""

    model: Any = field(repr=False)  # a transformers PreTrainedModel, whose methods have no types
    tokenizer: Any = field(repr=False)
    name: str
    layers: dict[int, MoELayer] = field(repr=False)  # the MoE layers, by decoder index
    decoder_layers: nn.ModuleList = field(repr=False)  # all layers, dense ones included
    origin: Origin | None = field(default=None, repr=False)  # None for a model that was opened elsewhere

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

    @property
    def reader(self) -> Reader:
        """The tokenizer with the model's limits: its positions, and the rows of its embedding."""
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        rows = getattr(self.model.get_input_embeddings(), "num_embeddings", None)
        return Reader(self.tokenizer, positions or None, rows)

    @property
    def shapes(self) -> dict[int, tuple[int, int, int]]:
        """(E, d_m, d_k) of the MoE layers, by decoder index."""
        return {index: layer.shape for index, layer in self.layers.items()}

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

    def fingerprint(self, layers: Iterable[int], progress: Progress | None = None) -> Fingerprint:
        """The identity of this base for a patch that edits `layers`. Merged patches do not change it.

        Args:
            layers: the edited layers.
            progress: called while weights are hashed.

        Raises:
            ModelError: as for `feed_forward`, or a tensor has no data.
        """
        parts = self.parts()
        return self.identity(layers, parts, self.pieces(parts, progress))

    def fingerprint_like(self, known: Fingerprint, progress: Progress | None = None) -> Fingerprint:
        """The identity of this base to be compared with `known`: in its format, for its layers.

        Layers that this base does not have are left out. `progress` is called while weights are hashed.

        Raises:
            ModelError: as for `fingerprint`.
        """
        numbers = [layer for layer in sorted(known.experts) if self._has(layer)]
        if known.format > 1:
            return self.fingerprint(numbers, progress)
        hashes = {number: down_hash(self.feed_forward(number)) for number in numbers}
        return replace(self.outline(numbers, version=1), experts=hashes, tokens={})

    def identity(self, layers: Iterable[int], parts: list[Part], pieces: Mapping[str, Tensor]) -> Fingerprint:
        """The fingerprint that follows from the hashes (n, 32) of all parts' pieces, by their names.

        Raises:
            ModelError: as for `feed_forward`.
        """
        numbers, leaves = sorted(layers), {part.name: part.leaf(pieces) for part in parts}
        return replace(
            self.outline(numbers),
            experts={number: leaves[self.down_part(parts, number).name] for number in numbers},
            nodes=hash_nodes(parts, leaves),
        )

    def parts(self) -> list[Part]:
        """All tensors that this base computes with; no values are read."""
        return model_parts(self.model, self.decoder_layers, self.layers.values())

    def pieces(self, parts: list[Part], progress: Progress | None = None) -> dict[str, Tensor]:
        """The hashes (n, 32) of the pieces of `parts` by their names; those of the base where a patch is on.

        Raises:
            ModelError: a tensor has no data.
        """
        kept = {self.down_part(parts, number).name: layer.originals for number, layer in self.layers.items()}
        found = live_pieces(parts, kept, progress)
        if self.origin is not None:
            self.origin.remember(parts, found)
        return found

    def down_part(self, parts: list[Part], index: int) -> Part:
        """The part that holds a layer's down projections.

        Raises:
            ModelError: as for `feed_forward`.
        """
        layer = self.feed_forward(index)
        owner, attribute = layer.place
        return next(part for part in parts if part.owner is owner and part.attribute == attribute)

    def outline(self, layers: Iterable[int], *, version: int = 2) -> Fingerprint:
        """The fingerprint for a patch that edits `layers`, as far as it does not depend on weights.

        Args:
            layers: the edited layers.
            version: of the format of the patch's file.

        Raises:
            ModelError: as for `feed_forward`.
        """
        config = self.model.config.get_text_config()
        index = {
            "layers": [[number, *self.layers[number].shape] for number in sorted(self.layers)],
            "depth": self.num_layers,
            "vocabulary": config.vocab_size,
            "hidden": self.hidden_size,
        }
        return Fingerprint(
            model_type=config.model_type,
            config=sha256_json(settled_config(config, layer_types=version > 1)),
            index=sha256_json(index),
            experts={},
            shapes={number: self.feed_forward(number).shape for number in layers},
            tokens=token_hashes(self.tokenizer),
        )

    def _has(self, layer: int) -> bool:
        try:
            self.feed_forward(layer)
        except ModelError:
            return False
        return True

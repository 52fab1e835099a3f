"""The tensors that a base computes text with, and the part of the model that each belongs to.

Names are relative to the decoder, so a text model that was opened alone and the same one inside a composite
agree. They come from the live modules, which may be on the meta device.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from moe_patch.base.digests import leaf_hash, run_count
from moe_patch.patch.fingerprint import EMBEDDINGS, HEAD, TOWERS, sha256_json

if TYPE_CHECKING:
    from moe_patch.base.moe import MoELayer

_STACKED = {"down_proj", "gate_up_proj", "up_proj"}  # what transformers' experts interface calls them
_LAST_NORM = re.compile(r"(final_?)?(layer_?)?norm(_f)?|ln_f")


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of a model: a parameter, or a buffer that checkpoints hold."""

    name: str  # relative to the decoder
    node: str  # of the tree of hashes
    owner: nn.Module = field(repr=False)
    attribute: str  # of the owner
    path: str  # in the model's state dict
    stacked: bool  # a stack of expert matrices, each of which is a piece
    turned: bool  # stored as (E, in, out)
    aliases: tuple[Part, ...] = ()  # the same tensor under other names, if it is tied

    @property
    def tensor(self) -> Tensor:
        """The tensor as the module has it."""
        found: Tensor = getattr(self.owner, self.attribute)
        return found

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, (E, out, in) of a stack however it is stored."""
        shape = tuple(self.tensor.shape)
        return (shape[0], shape[2], shape[1]) if self.turned else shape

    @property
    def count(self) -> int:
        """The number of pieces."""
        return self.shape[0] if self.stacked else run_count(self.shape)

    def leaf(self, pieces: Mapping[str, Tensor]) -> str:
        """The hash of the tensor, from those (n, 32) of all tensors' pieces by their names."""
        return leaf_hash(self.shape, pieces[self.name])

    def oriented(self, tensor: Tensor) -> Tensor:
        """A tensor as stored, or one of its slices along the first dimension, as it is hashed."""
        return tensor.transpose(-1, -2) if self.turned else tensor


def model_parts(model: Any, decoder_layers: nn.ModuleList, layers: Iterable[MoELayer]) -> list[Part]:
    """All tensors of a model, tied ones once, in the order of the modules."""
    paths = {id(module): path for path, module in model.named_modules()}
    blocks, top = f"{paths[id(decoder_layers)]}.", _dot(paths[id(model.get_decoder())])
    head = model.get_output_embeddings()
    beside = paths[id(head)] if isinstance(head, nn.Module) and id(head) in paths else None
    composite = model.config.get_text_config() is not model.config
    experts = {id(layer.experts): layer.layout == "in_out" for layer in layers}

    def node(path: str) -> str:
        if path.startswith(blocks):
            return path.removeprefix(blocks).partition(".")[0]
        if path.startswith(top):
            first = path.removeprefix(top).partition(".")[0]
            return HEAD if _LAST_NORM.fullmatch(first) else EMBEDDINGS
        return TOWERS if composite and not (beside and path.startswith(f"{beside}.")) else HEAD

    def part(path: str, owner: nn.Module, attribute: str) -> Part:
        stacked = id(owner) in experts and attribute in _STACKED
        turned = stacked and experts[id(owner)]
        return Part(path.removeprefix(top), node(path), owner, attribute, path, stacked, turned)

    tied = ([part(*place) for place in places] for places in _by_identity(model))
    return [replace(first, aliases=tuple(others)) for first, *others in tied]


def hash_nodes(parts: list[Part], leaves: Mapping[str, str]) -> dict[str, str]:
    """The hash of every node, from those of the parts by their names."""
    named: dict[str, dict[str, str]] = {node: {} for node in (EMBEDDINGS, HEAD)}
    for part in parts:
        named.setdefault(part.node, {})[part.name] = leaves[part.name]
    return {node: sha256_json(held) for node, held in named.items()}


def _by_identity(model: Any) -> list[list[tuple[str, nn.Module, str]]]:
    """Path, owner and attribute of each tensor that the state dict holds; those of a tied one together."""
    kept = model.state_dict(keep_vars=True).keys()
    found: dict[int, list[tuple[str, nn.Module, str]]] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for attribute, tensor in (*module._parameters.items(), *module._buffers.items()):
            path = f"{_dot(prefix)}{attribute}"
            if tensor is not None and path in kept:
                found.setdefault(id(tensor), []).append((path, module, attribute))
    return list(found.values())


def _dot(path: str) -> str:
    return f"{path}." if path else ""

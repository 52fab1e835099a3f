"""The places in a base whose states a trace records and restores."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from moe_patch.base.blocks import find_block
from moe_patch.base.model import Base
from moe_patch.errors import ModelError

Kind = Literal["moe", "stream", "attention", "experts"]

_MIXERS = re.compile("attention|mamba|deltanet|mixer|conv|kda|retention", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Site:
    """What one decoder layer gives at one of its places."""

    layer: int
    kind: Kind
    module: nn.Module = field(repr=False, compare=False)


def find_sites(base: Base, kind: Kind) -> dict[int, Site]:
    """The sites of a kind by layer; layers that have none are left out.

    Of the kind "moe" is a layer's feed-forward block, dense ones included, with shared experts that are a
    part of it; of the kind "stream" the layer's output; of the kind "attention" its mixer of tokens; of the
    kind "experts" the routed experts alone.
    """
    found = {layer: _module(base, kind, layer) for layer in range(base.num_layers)}
    return {layer: Site(layer, kind, module) for layer, module in found.items() if module is not None}


def _module(base: Base, kind: Kind, layer: int) -> nn.Module | None:
    block = base.decoder_layers[layer]
    if kind == "stream":
        return block
    if kind == "experts":
        return base.layers[layer].experts if layer in base.layers else None
    if kind == "attention":
        named = [child for child in block.children() if _MIXERS.search(type(child).__name__)]
        return named[0] if named else None
    try:
        return find_block(base, layer).module
    except ModelError:
        return base.layers[layer].experts if layer in base.layers else None  # experts beside a shared block


@contextmanager
def recording(
    sites: Sequence[Site], rows: Tensor, columns: Tensor, length: int
) -> Iterator[dict[Site, Tensor]]:
    """Inside the block, what passes over (B, length) tokens give at n places, (n, d_m) fp32 by site.

    Args:
        sites: where.
        rows: (n,) of the batch.
        columns: (n,) of the batch.
        length: S.
    """
    seen: dict[Site, Tensor] = {}
    places = rows * length + columns  # (n,)

    def listener(site: Site) -> Any:
        def keep(_module: nn.Module, _inputs: object, output: Any) -> None:
            states = _states(output)
            seen[site] = states.reshape(-1, states.shape[-1])[places.to(states.device)].float().cpu()

        return keep

    with ExitStack() as stack:
        for site in sites:
            stack.callback(site.module.register_forward_hook(listener(site)).remove)
        yield seen


@contextmanager
def recorded_outputs(base: Base, layers: Collection[int]) -> Iterator[dict[int, Any]]:
    """Inside the block, all that decoder layers return in a pass, by layer, in the form in which they do."""
    seen: dict[int, Any] = {}

    def listener(layer: int) -> Any:
        def keep(_module: nn.Module, _inputs: object, output: Any) -> None:
            seen[layer] = output

        return keep

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(base.decoder_layers[layer].register_forward_hook(listener(layer)).remove)
        yield seen


@contextmanager
def restoring(values: Mapping[Site, tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Inside the block, sites give other states at some tokens of a batch.

    Args:
        values: by site, the places (n,) among the batch's B*S tokens, and the states (n, d_m) to put there.
    """

    def writer(places: Tensor, states: Tensor) -> Any:
        def write(_module: nn.Module, _inputs: object, output: Any) -> Any:
            given = _states(output)
            flat = given.reshape(-1, given.shape[-1]).clone()
            flat[places.to(given.device)] = states.to(given)
            changed = flat.view_as(given)
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return write

    with ExitStack() as stack:
        for site, (places, states) in values.items():
            stack.callback(site.module.register_forward_hook(writer(places, states)).remove)
        yield


def _states(output: Any) -> Tensor:
    """The hidden states of a module's output, which is a tensor or a tuple that starts with one."""
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


def batch_places(rows: Sequence[int], columns: Sequence[int], length: int) -> Tensor:
    """The places (n,) of tokens (rows[i], columns[i]) among those of a batch with rows of a length."""
    return torch.tensor(rows) * length + torch.tensor(columns)

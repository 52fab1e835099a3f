"""A short measurement of this machine, with the model's own layers.

One layer of each kind is given random weights and run, in the shapes that a build runs. What operations cost
in layers of these sizes, with as few tokens for each expert, no table says.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from moe_patch.base.digests import piece_hash
from moe_patch.planning.machine import Rates
from moe_patch.planning.outline import LayerOutline, ModelOutline
from moe_patch.planning.work import Work

MOST_TOKENS = 2048  # of a pass that is measured; longer ones take as much longer
_SHARE_OF_MEMORY = 0.25  # that a layer may take; larger ones are counted
_REPEATS = 3
_LONG = 1.0  # seconds after which a measurement is not repeated
_PROBE = 1024  # rows and columns of the products that are timed
_HASHED = 2**23  # bytes, as in a piece
_READING = 4e8  # bytes a second that transformers reads from a warm disk, and packs into stacks of experts
_OPENING = 0.5  # seconds that it takes beside that


class Probed:
    """This machine, measured as it is asked for. Each measurement is made once."""

    def __init__(self, device: torch.device | None = None, disk: float = _READING) -> None:
        """Of a device.

        Args:
            device: None for the accelerator, or the CPU where there is none.
            disk: bytes a second that weights are read with.
        """
        self._device = device or torch.accelerator.current_accelerator() or torch.device("cpu")
        self._disk = disk
        self._layers: dict[tuple[float, ...], nn.Module] = {}
        self._known: dict[tuple[Any, ...], float] = {}
        self._rates: dict[torch.dtype, Rates] = {}

    @property
    def name(self) -> str:
        """For the report."""
        return f"this machine's {self._device.type}, measured"

    def seconds(self, work: Work, model: ModelOutline) -> float:
        """The time of one layer of each kind, times the layers and passes."""
        rows = max(1, min(work.rows, MOST_TOKENS * work.rows // work.width))
        longer = work.rows / rows
        tokens = 1 if work.kind == "step" else work.tokens
        total = self._head(work, model)
        for index in work.layers:
            layer = model.layers[index]
            if self._fits(layer, model):
                total += work.passes * longer * self._layer(work.kind, rows, tokens, layer, model)
            else:
                one = Work(work.kind, work.rows, work.tokens, work.passes, (index,))
                total += self._table(model.dtype).seconds(one, model)
        return total

    def algebra(self, flops: float) -> float:
        """At the measured rate of fp32."""
        return self._table(torch.float32).algebra(flops)

    def decompose(self, size: int) -> float:
        """Measured with a matrix of this size."""

        def run() -> None:
            torch.linalg.eigh(matrix)

        matrix = torch.randn(size, size, device=self._device, dtype=torch.float64)
        matrix = matrix @ matrix.T / size
        return self._once(("decompose", size), run)

    def read(self, amount: float) -> float:
        """At the given rate."""
        return _OPENING + amount / self._disk if amount else 0.0

    def hash(self, amount: float) -> float:
        """At the rate of the hash that fingerprints take, on all cores."""
        values = torch.zeros(_HASHED // 4)
        seconds = self._once(("hash",), lambda: piece_hash(values))
        return amount / _HASHED * seconds / (os.cpu_count() or 1)

    def _head(self, work: Work, model: ModelOutline) -> float:
        flops = work.passes * work.logits * model.head_flops * (2.0 if work.kind == "search" else 1.0)
        return flops / self._table(model.dtype).flops

    def _fits(self, layer: LayerOutline, model: ModelOutline) -> bool:
        free = int(psutil.virtual_memory().available)
        return layer.parameters * model.dtype.itemsize < _SHARE_OF_MEMORY * free

    def _layer(self, kind: str, rows: int, tokens: int, layer: LayerOutline, model: ModelOutline) -> float:
        """Seconds of one layer's pass: with the layer, less without it."""
        whole = self._pass(kind, rows, tokens, layer, model)
        return max(0.0, whole - self._pass(kind, rows, tokens, None, model))

    def _pass(
        self, kind: str, rows: int, tokens: int, layer: LayerOutline | None, model: ModelOutline
    ) -> float:
        key = (model.name, model.dtype, kind, rows, tokens, None if layer is None else layer.kind)
        if key in self._known:
            return self._known[key]
        decoder = self._decoder(layer, model)
        stream = torch.randn(rows, tokens, model.hidden, device=self._device, dtype=model.dtype)
        return self._once(key, _runner(kind, decoder, stream))

    def _decoder(self, layer: LayerOutline | None, model: ModelOutline) -> nn.Module:
        """The model's decoder with this layer alone, or with none, with random weights."""
        key: tuple[float, ...] = () if layer is None else layer.kind
        if key not in self._layers:
            layers = model.base.decoder_layers
            kept = list(layers)
            chosen = [] if layer is None else [copy.deepcopy(kept[layer.index])]
            try:
                layers._modules.clear()
                decoder = copy.deepcopy(model.base.decoder)
            finally:
                for number, module in enumerate(kept):
                    layers._modules[str(number)] = module
            self._layers[key] = _filled(decoder, layers_of=chosen, model=model, device=self._device)
        return self._layers[key]

    def _table(self, dtype: torch.dtype) -> Rates:
        """Rates of products of large matrices, and of reading one."""
        if dtype not in self._rates:
            left, right = (torch.randn(_PROBE, _PROBE, device=self._device, dtype=dtype) for _ in range(2))
            wide = torch.randn(16 * _PROBE, _PROBE, device=self._device, dtype=dtype)
            flops = 2 * _PROBE**3 / self._once((dtype, "product"), lambda: left @ right)
            bandwidth = wide.nbytes / self._once((dtype, "read"), lambda: wide @ right[0])
            self._rates[dtype] = Rates(self.name, flops, bandwidth, flops, self._disk, 1e9)
        return self._rates[dtype]

    def _once(self, key: tuple[Any, ...], run: Callable[[], object]) -> float:
        """The shortest of some runs, after one that is not counted."""
        if key not in self._known:
            spent = [self._time(run)]
            while len(spent) <= _REPEATS and sum(spent) < _LONG:
                spent.append(self._time(run))
            self._known[key] = min(spent[1:] or spent)
        return self._known[key]

    def _time(self, run: Callable[[], object]) -> float:
        started = time.perf_counter()
        run()
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)
        return time.perf_counter() - started


def _filled(decoder: nn.Module, *, layers_of: list[nn.Module], model: ModelOutline, device: Any) -> nn.Module:
    """A decoder from the meta device with small random weights; what embeds tokens stays there."""
    place = next(
        module
        for module in decoder.modules()
        if isinstance(module, nn.ModuleList) and not len(module) and _is_list_of(module, decoder, model)
    )
    place.extend(layers_of)
    for module in decoder.modules():
        if isinstance(module, nn.Embedding):
            continue
        for name, parameter in module.named_parameters(recurse=False):
            data = torch.empty(parameter.shape, device=device, dtype=model.dtype).normal_(std=0.02)
            module.register_parameter(name, nn.Parameter(data, requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, torch.full_like(buffer, 0.1, device=device), persistent=False)
    return decoder.eval()


def _is_list_of(module: nn.Module, decoder: nn.Module, model: ModelOutline) -> bool:
    """Whether an emptied list of modules stands where the model has its decoder layers."""
    path = next(name for name, found in decoder.named_modules() if found is module)
    return model.base.decoder.get_submodule(path) is model.base.decoder_layers


def _runner(kind: str, decoder: Any, stream: Tensor) -> Callable[[], object]:
    """A pass of one kind over a stream (B, S, d_m). A step is one of a token; reading the cache is little."""
    if kind == "search":
        return lambda: _gradient(decoder, stream)
    return torch.no_grad()(lambda: decoder(inputs_embeds=stream, use_cache=False))


def _gradient(decoder: Any, stream: Tensor) -> None:
    leaf = stream.detach().requires_grad_()
    with torch.enable_grad():
        out: Tensor = decoder(inputs_embeds=leaf, use_cache=False).last_hidden_state
        out.float().sum().backward()

"""The forms in which LoRA adapters on experts are written, as PEFT and vLLM read them.

"packed" is one adapter for all experts of a layer: A (E * r, d_k) has the rows of one expert after the other,
B (d_m, r * E) has the columns of all experts interleaved (the expert's number changes fastest). "split" is an
ordinary adapter for every expert. PEFT reads both, and a module without an adapter stays unchanged.

vLLM (0.32) stacks a layer's adapters before it reads them. The split form must therefore have all three
projections of every expert, with one rank for each projection, and the packed form must have gate_up beside
down. What a patch does not change is written as zeros of rank 1, given by the config's `rank_pattern`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from moe_patch.base.moe import MoELayer
from moe_patch.errors import ConfigError, PatchError

Reader = Literal["peft", "vllm"]
Shape = Literal["packed", "split"]

Factors = tuple[Tensor, Tensor]  # B (d_m, n) and A (n, d_k): the delta is B A

Naming = Callable[[int, int], str]  # (layer, expert) to the name of the down projection, without ".weight"

_PREFIX = "base_model.model."
_BESIDE_DOWN = {"down_proj": ("gate_proj", "up_proj"), "w2": ("w1", "w3")}  # by a checkpoint's name of down
_PACKED_IN_VLLM = frozenset(
    {"gpt_oss", "interns1_pro", "qwen3_5_moe", "qwen3_omni_moe", "qwen3_omni_moe_thinker", "qwen3_vl_moe"}
)  # model classes of vLLM 0.32 with is_3d_moe_weight


class Form(ABC):
    """How an adapter's tensors are laid out and named."""

    ranks: Sequence[int] | None = None  # that the reader can be set up for, ascending; None for any

    @abstractmethod
    def tensors(
        self, layer: MoELayer, factors: Mapping[int, Factors], rank: int, name_of: Naming
    ) -> dict[str, Tensor]:
        """The tensors of one layer; `factors` are those of the experts that the patch changes."""

    @abstractmethod
    def targets(self, layers: Sequence[MoELayer], name_of: Naming) -> dict[str, Any]:
        """The entries of the adapter's config for the modules or parameters that it changes."""

    def room(self, rank: int) -> int:
        """The rank that the reader must be set up for: `rank`, or the next higher one that it offers.

        Raises:
            PatchError: it offers none that is high enough.
        """
        if self.ranks is None:
            return rank
        offered = [room for room in self.ranks if room >= rank]
        if not offered:
            raise PatchError(
                f"the patch needs rank {rank}, but {self.ranks[-1]} is the highest that the reader takes: "
                "allow a truncation to a lower rank, or merge the patch into a checkpoint"
            )
        return offered[0]


class Packed(Form):
    """PEFT's adapter of a 3-D parameter (`target_parameters`)."""

    def tensors(
        self, layer: MoELayer, factors: Mapping[int, Factors], rank: int, name_of: Naming
    ) -> dict[str, Tensor]:
        """A (E, r, d_k) and B (d_m, r, E), each flattened to two dimensions."""
        down = torch.zeros(layer.num_experts, rank, layer.d_key)  # (E, r, d_k)
        up = torch.zeros(layer.d_model, rank, layer.num_experts)  # (d_m, r, E)
        for expert, (left, right) in factors.items():
            up[:, : left.shape[1], expert] = left
            down[expert, : len(right)] = right
        return _pair(layer.name, down.flatten(0, 1), up.flatten(1, 2))

    def targets(self, layers: Sequence[MoELayer], name_of: Naming) -> dict[str, Any]:
        """The parameters, by their names in memory."""
        return {"target_modules": [], "target_parameters": [f"{layer.name}.down_proj" for layer in layers]}


class Split(Form):
    """An adapter for every expert of an edited layer; zeros for experts that the patch does not change."""

    def tensors(
        self, layer: MoELayer, factors: Mapping[int, Factors], rank: int, name_of: Naming
    ) -> dict[str, Tensor]:
        """A (r, d_k) and B (d_m, r) of every expert."""
        tensors: dict[str, Tensor] = {}
        for expert in range(layer.num_experts):
            down, up = torch.zeros(rank, layer.d_key), torch.zeros(layer.d_model, rank)
            if expert in factors:
                left, right = factors[expert]
                up[:, : left.shape[1]], down[: len(right)] = left, right
            tensors |= _pair(name_of(layer.index, expert), down, up)
        return tensors

    def targets(self, layers: Sequence[MoELayer], name_of: Naming) -> dict[str, Any]:
        """The modules, by the last part of their names."""
        leaves = {name_of(layer.index, 0).rpartition(".")[2] for layer in layers}
        return {"target_modules": sorted(leaves), "target_parameters": None}


class _ForVllm(Form):
    ranks = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # of --max-lora-rank (vllm/config/lora.py)


class PackedForVllm(_ForVllm, Packed):
    """The packed form with a gate_up adapter of zeros, which PEFT calls `base_layer`."""

    def tensors(
        self, layer: MoELayer, factors: Mapping[int, Factors], rank: int, name_of: Naming
    ) -> dict[str, Tensor]:
        """The tensors of PEFT's form, and zeros A (E, d_m) and B (2 d_k, E) for gate_up."""
        experts = layer.num_experts
        zeros = torch.zeros(experts, layer.d_model), torch.zeros(2 * layer.d_key, experts)
        return super().tensors(layer, factors, rank, name_of) | _pair(f"{layer.name}.base_layer", *zeros)

    def targets(self, layers: Sequence[MoELayer], name_of: Naming) -> dict[str, Any]:
        """Both parameters of every edited layer, gate_up at rank 1."""
        both = [f"{layer.name}.{part}" for layer in layers for part in ("gate_up_proj", "down_proj")]
        return {"target_modules": [], "target_parameters": both, "rank_pattern": {"gate_up_proj": 1}}


class SplitForVllm(_ForVllm, Split):
    """The split form with gate and up adapters of zeros for every expert."""

    def tensors(
        self, layer: MoELayer, factors: Mapping[int, Factors], rank: int, name_of: Naming
    ) -> dict[str, Tensor]:
        """The tensors of PEFT's form, and zeros A (1, d_m) and B (d_k, 1) for gate and up."""
        tensors = super().tensors(layer, factors, rank, name_of)
        for expert in range(layer.num_experts):
            for name in _beside(name_of(layer.index, expert)):
                tensors |= _pair(name, torch.zeros(1, layer.d_model), torch.zeros(layer.d_key, 1))
        return tensors

    def targets(self, layers: Sequence[MoELayer], name_of: Naming) -> dict[str, Any]:
        """All three modules, gate and up at rank 1."""
        downs = [name_of(layer.index, 0) for layer in layers]
        others = sorted({name.rpartition(".")[2] for down in downs for name in _beside(down)})
        targets = super().targets(layers, name_of)
        targets["target_modules"] = sorted({*targets["target_modules"], *others})
        return targets | {"rank_pattern": dict.fromkeys(others, 1)}


@dataclass(frozen=True, slots=True)
class _Choice:
    reader: Reader
    shape: Shape


_FORMS: dict[_Choice, Form] = {
    _Choice("peft", "packed"): Packed(),
    _Choice("peft", "split"): Split(),
    _Choice("vllm", "packed"): PackedForVllm(),
    _Choice("vllm", "split"): SplitForVllm(),
}


def form_for(reader: Reader, shape: Shape) -> Form:
    """The form in which a reader takes adapters of a shape.

    Raises:
        ConfigError: there is no such form.
    """
    try:
        return _FORMS[_Choice(reader, shape)]
    except KeyError:
        known = ", ".join(f"{choice.shape} for {choice.reader}" for choice in _FORMS)
        raise ConfigError(f"there is no form {shape!r} for {reader!r}; choose from {known}") from None


def usual_shape(reader: Reader, model_type: str) -> Shape:
    """The shape that a reader expects by default for this architecture."""
    return "packed" if reader == "peft" or model_type in _PACKED_IN_VLLM else "split"


def _pair(name: str, lora_a: Tensor, lora_b: Tensor) -> dict[str, Tensor]:
    return {f"{_PREFIX}{name}.lora_A.weight": lora_a, f"{_PREFIX}{name}.lora_B.weight": lora_b}


def _beside(down: str) -> Iterator[str]:
    """A checkpoint's names of the gate and up projections beside a down projection."""
    stem, _, leaf = down.rpartition(".")
    if leaf not in _BESIDE_DOWN:
        known = ", ".join(_BESIDE_DOWN)
        raise PatchError(
            f"{down}: the names of its gate and up projections are not known; expected a name that ends in "
            f"{known}: merge the patch into a checkpoint instead"
        )
    return (f"{stem}.{name}" for name in _BESIDE_DOWN[leaf])

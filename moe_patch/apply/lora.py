"""A patch as a LoRA adapter on the experts' down projections, in the forms that PEFT reads.

An expert's delta is a sum of outer products, so its rows are an adapter already: B has the left factors as
columns, A the right rows. Only where more rows reach an expert than the adapter has ranks is anything
computed. The rank is then lowered so that the outputs for the expert's own facts change least: with K their
keys and D K = U S V^T, the best approximation of D K of rank r is U_r U_r^T D K (Eckart and Young 1936),
which D_r = U_r U_r^T D reaches.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor

from moe_patch.apply.survival import Survival
from moe_patch.checkpoint.staging import Staging
from moe_patch.errors import ConfigError, PatchError
from moe_patch.model import Base
from moe_patch.patch import LayerDelta, Patch

Form = Literal["packed", "split"]
"""PEFT's 3-D form, one adapter for all experts of a layer, or 2-D keys for every expert."""

Factors = tuple[Tensor, Tensor]  # B (d_m, n) and A (n, d_k): the delta is B A


@dataclass(frozen=True, slots=True)
class Adapter:
    """A patch as an adapter: its rank, what tensors hold it, and what of it a lowered rank has lost.

    `needed` is the rank at which nothing is lost. `lost` has the share of the worst fact's edit and of the
    median one's that this rank loses.
    """

    patch: Patch
    rank: int
    needed: int
    lost: dict[str, float]
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    def save(self, out: str | Path) -> None:
        """Write the adapter to a folder, whole or not at all; OutputError where it exists or cannot be."""
        staging = Staging(Path(out), {"adapter": self.patch.hash, "config": self.config})
        with staging.opened():
            with staging.making("adapter_model.safetensors") as path:
                save_file(self.tensors, path, metadata={"format": "pt", "moe_patch": self.patch.hash})
            with staging.making("adapter_config.json") as path:
                path.write_text(json.dumps(self.config, indent=2) + "\n", encoding="utf-8")


def to_lora(
    patch: Patch,
    base: Base,
    *,
    form: Form = "packed",
    max_rank: int | None = None,
    truncate: bool = False,
    name_of: Callable[[int, int], str] | None = None,
) -> Adapter:
    """The adapter that adds what the patch adds.

    Args:
        base: the model it is for; its weights are not looked at, and may be on the meta device.
        max_rank: the highest rank that the consumer takes; None is as high as the patch needs.
        truncate: lower the rank to `max_rank` where the patch needs more, instead of refusing it.
        name_of: what the split form calls the down projection of (layer, expert), without ".weight"; None
            is the name that it would have in memory if it were a module.

    Raises:
        PatchError: the patch does not change expert weights, or needs a higher rank; the message says which
            one, and what the best truncation would lose.
        ModelError: the base has no such layers.
    """
    if form not in get_args(Form):
        raise ConfigError(f"form {form!r} is unknown; choose from {', '.join(get_args(Form))}")
    if patch.kind != "delta":
        raise PatchError(f"a patch of kind {patch.kind!r} does not change expert weights: it is no adapter")
    needed = max(_needed(delta, expert) for delta in patch.layers.values() for expert in delta.experts())
    rank = needed if max_rank is None else min(needed, max_rank)
    factors = {
        (layer, expert): _factors(delta, expert, rank)
        for layer, delta in patch.layers.items()
        for expert in delta.experts()
    }
    lost = _lost(patch, factors) if rank < needed else {"worst": 0.0, "median": 0.0}
    if rank < needed and not truncate:
        raise PatchError(
            f"the patch needs rank {needed}, and {max_rank} is the highest allowed; the best adapter of that "
            f"rank loses {100 * lost['worst']:.2g}% of the worst fact's edit and {100 * lost['median']:.2g}% "
            "of the median one's: allow the truncation, or merge the patch into a checkpoint"
        )
    if form == "packed":
        config, tensors = _packed(patch, base, factors, rank)
    else:
        config, tensors = _split(patch, base, factors, rank, name_of or _name_in_memory(base))
    return Adapter(patch, rank, needed, lost, _config(base, rank) | config, tensors)


def _needed(delta: LayerDelta, expert: int) -> int:
    """A rank at which the expert's delta is exact: its rows, or the smaller side where there are more."""
    rows = int((delta.expert == expert).sum())
    return min(rows, delta.left.shape[1], delta.right.shape[1])


def _factors(delta: LayerDelta, expert: int, rank: int) -> Factors:
    """B (d_m, n) and A (n, d_k) of one expert, with n at most `rank`."""
    chosen = delta.expert == expert
    left = delta.left[delta.fact[chosen].long()].T  # (d_m, n)
    right = delta.right[chosen]  # (n, d_k)
    if left.shape[1] <= rank:
        return left, right
    key, _ = delta.rows.of(expert)  # (m, d_k), the facts' own
    outer, inner = torch.linalg.qr(left.double())  # (d_m, q) and (q, n)
    small = inner @ right.double()  # (q, d_k): the delta is outer @ small
    probe = small if rank == _needed(delta, expert) else small @ key.double().T  # (q, d_k or m)
    turn = torch.linalg.svd(probe, full_matrices=True).U[:, :rank]  # (q, rank)
    return (outer @ turn).float(), (turn.T @ small).float()


def _lost(patch: Patch, factors: Mapping[tuple[int, int], Factors]) -> dict[str, float]:
    """What of each fact's edit the factors do not give, on the fact's own keys."""
    survival = Survival(patch)
    for (layer, expert), (left, right) in factors.items():
        delta = patch.layers[layer]
        exact_left, exact_right = _factors(delta, expert, len(delta.expert))
        survival.add(layer, expert, [delta], exact_left @ exact_right - left @ right)
    return survival.lost()


def _packed(
    patch: Patch, base: Base, factors: Mapping[tuple[int, int], Factors], rank: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """PEFT's adapter of a 3-D parameter: A (E, r, d_k) and B (d_m, r, E), each flattened to two sides."""
    tensors: dict[str, Tensor] = {}
    for index in patch.layers:
        layer = base.layer(index)
        up = torch.zeros(layer.d_model, rank, layer.num_experts)
        down = torch.zeros(layer.num_experts, rank, layer.d_key)
        for expert in patch.layers[index].experts():
            left, right = factors[index, expert]
            up[:, : left.shape[1], expert] = left
            down[expert, : len(right)] = right
        tensors[f"base_model.model.{layer.name}.lora_A.weight"] = down.flatten(0, 1)
        tensors[f"base_model.model.{layer.name}.lora_B.weight"] = up.flatten(1, 2)
    names = [f"{base.layer(index).name}.down_proj" for index in patch.layers]
    return {"target_modules": [], "target_parameters": names}, tensors


def _split(
    patch: Patch,
    base: Base,
    factors: Mapping[tuple[int, int], Factors],
    rank: int,
    name_of: Callable[[int, int], str],
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A (r, d_k) and B (d_m, r) for every expert of the edited layers; zeros where nothing reaches it."""
    tensors: dict[str, Tensor] = {}
    for index in patch.layers:
        layer = base.layer(index)
        for expert in range(layer.num_experts):
            up, down = torch.zeros(layer.d_model, rank), torch.zeros(rank, layer.d_key)
            if (index, expert) in factors:
                left, right = factors[index, expert]
                up[:, : left.shape[1]], down[: len(right)] = left, right
            name = f"base_model.model.{name_of(index, expert)}"
            tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = down, up
    leaves = {name_of(index, 0).rpartition(".")[2] for index in patch.layers}
    return {"target_modules": sorted(leaves), "target_parameters": None}, tensors


def _name_in_memory(base: Base) -> Callable[[int, int], str]:
    return lambda layer, expert: f"{base.layer(layer).name}.{expert}.down_proj"


def _config(base: Base, rank: int) -> dict[str, Any]:
    """What PEFT is to know of the adapter; alpha equal to the rank is a scale of one."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }

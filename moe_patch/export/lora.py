"""A patch as a LoRA adapter on the experts' down projections.

An expert's delta is a sum of outer products, so it is an adapter already: B has the left factors as columns,
A has the rows. If an expert has more rows than the adapter's rank, the rank of its delta D is lowered so that
the outputs for the expert's own facts change least. With their keys K and D K = U S V^T, the best
approximation of D K of rank r is U_r U_r^T D K (Eckart and Young 1936), and D_r = U_r U_r^T D gives it. A
dense delta is treated the same; it needs the rank of its smaller side to be exact. The layout of the factors
is in `moe_patch.export.lora_forms`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from moe_patch.apply.weights.finite import require_finite
from moe_patch.apply.weights.survival import Survival
from moe_patch.base.model import Base
from moe_patch.checkpoint.staging import Staging
from moe_patch.errors import PatchError
from moe_patch.export.lora_forms import Factors, Form, Naming, Packed
from moe_patch.patch import LayerDelta, Patch, check_shapes


@dataclass(frozen=True, slots=True)
class Adapter:
    """A patch as an adapter."""

    patch: Patch
    rank: int
    needed: int  # the rank at which nothing is lost
    room: int  # the rank that the reader must be set up for: vLLM's --max-lora-rank takes some values only
    lost: dict[str, float]  # share of the edit that a lowered rank loses, of the worst and of the median fact
    config: dict[str, Any]  # adapter_config.json
    tensors: dict[str, Tensor]

    def save(self, out: str | Path) -> None:
        """Write the adapter to a folder, whole or not at all.

        Raises:
            OutputError: `out` exists, or the system refuses to write.
        """
        staging = Staging(Path(out), {"adapter": self.patch.hash, "config": self.config})
        with staging.opened():
            with staging.making("adapter_model.safetensors") as path:
                save_file(self.tensors, path, metadata={"format": "pt", "moe_patch": self.patch.hash})
            with staging.making("adapter_config.json") as path:
                path.write_text(json.dumps(self.config, indent=2) + "\n", encoding="utf-8")


def require_weights(patch: Patch) -> None:
    """Check that a patch changes expert weights; others cannot be adapters.

    Raises:
        PatchError: it does not.
    """
    if patch.kind != "delta":
        raise PatchError(
            f"a patch of kind {patch.kind!r} does not change expert weights: it cannot become an adapter"
        )


def to_lora(
    patch: Patch,
    base: Base,
    *,
    form: Form | None = None,
    max_rank: int | None = None,
    truncate: bool = False,
    name_of: Naming | None = None,
) -> Adapter:
    """The adapter that adds the same as the patch.

    Args:
        patch: the patch.
        base: the model it is for; its weights are not used and may be on the meta device.
        form: the layout, from `lora_forms.form_for(reader, shape)`; None for PEFT's packed form.
        max_rank: the highest rank allowed; None for the rank that the patch needs.
        truncate: lower the rank to `max_rank` if the patch needs more, instead of raising PatchError.
        name_of: gives the name that split forms use for the down projection of (layer, expert), without
            ".weight"; None for the name that it would have in memory if it were a module.

    Raises:
        PatchError: the patch does not change expert weights, or needs a higher rank than is allowed; the
            message has that rank, and what the best truncation would lose.
        WrongBase: the base does not have the patch's layers in its sizes.
        NotFinite: an expert's delta overflows fp32.
    """
    form = form or Packed()
    require_weights(patch)
    check_shapes(patch, base.shapes)
    needed = _rank_needed(patch)
    rank = needed if max_rank is None else min(needed, max_rank)
    room = form.room(rank)
    factors = _all_factors(patch, rank)
    lost = _lost(patch, factors) if rank < needed else {"worst": 0.0, "median": 0.0}
    if rank < needed and not truncate:
        raise PatchError(
            f"the patch needs rank {needed}, but {max_rank} is the highest allowed; the best adapter of that "
            f"rank loses {100 * lost['worst']:.2g}% of the worst fact's edit and {100 * lost['median']:.2g}% "
            "of the median fact's: allow the truncation, or merge the patch into a checkpoint"
        )
    names = name_of or _name_in_memory(base)
    layers = [base.layer(index) for index in patch.layers]
    tensors: dict[str, Tensor] = {}
    for layer in layers:
        own = {expert: pair for (index, expert), pair in factors.items() if index == layer.index}
        tensors |= form.tensors(layer, own, rank, names)
    config = _config(base, rank) | form.targets(layers, names)
    return Adapter(patch, rank, needed, room, lost, config, tensors)


def _rank_needed(patch: Patch) -> int:
    ranks = [delta.rank(expert) for delta in patch.layers.values() for expert in delta.experts()]
    if not ranks:
        raise PatchError("the patch changes no expert: there is nothing to export")
    return max(ranks)


def _all_factors(patch: Patch, rank: int) -> dict[tuple[int, int], Factors]:
    """The factors of every changed expert, by layer and expert; NotFinite if their product overflows."""
    factors = {}
    for layer, delta in patch.layers.items():
        for expert in delta.experts():
            left, right = factors[layer, expert] = _factors(delta, expert, rank)
            require_finite(left @ right, layer, expert)
    return factors


def _factors(delta: LayerDelta, expert: int, rank: int) -> Factors:
    """B (d_m, n) and A (n, d_k) of one expert, with n at most `rank`."""
    if delta.dense is not None and delta.dense.of(expert) is not None:
        return _factors_of_matrix(delta, expert, rank)
    right, fact = delta.rows.of(expert)  # (n, d_k) and (n,)
    left = delta.left[fact].T  # (d_m, n)
    if left.shape[1] <= rank:
        return left, right
    key, _ = delta.fact_rows.of(expert)  # (m, d_k)
    outer, inner = torch.linalg.qr(left.double())  # (d_m, q) and (q, n)
    small = inner @ right.double()  # (q, d_k): the delta is outer @ small
    probe = small if rank == delta.rank(expert) else small @ key.double().T  # (q, d_k or m)
    turn = torch.linalg.svd(probe, full_matrices=True).U[:, :rank]  # (q, rank)
    return (outer @ turn).float(), (turn.T @ small).float()


def _factors_of_matrix(delta: LayerDelta, expert: int, rank: int) -> Factors:
    """As `_factors`, for an expert whose delta is a whole matrix."""
    whole = delta.matrix(expert).double()  # (d_m, d_k)
    key, _ = delta.fact_rows.of(expert)  # (m, d_k)
    exact = rank >= delta.rank(expert) or not len(key)
    turn = torch.linalg.svd(whole if exact else whole @ key.double().T, full_matrices=True).U  # (d_m, d_m)
    kept = turn[:, : min(rank, *delta.widths)]  # (d_m, n)
    return kept.float(), (kept.T @ whole).float()


def _lost(patch: Patch, factors: Mapping[tuple[int, int], Factors]) -> dict[str, float]:
    """The shares of the worst and of the median fact's edit that the factors lose, on the facts' own keys."""
    survival = Survival(patch)
    for (layer, expert), (left, right) in factors.items():
        delta = patch.layers[layer]
        survival.add(layer, expert, [delta], delta.matrix(expert) - left @ right)
    return survival.lost()


def _name_in_memory(base: Base) -> Naming:
    return lambda layer, expert: f"{base.layer(layer).name}.{expert}.down_proj"


def _config(base: Base, rank: int) -> dict[str, Any]:
    """What PEFT needs to know of the adapter; alpha equals the rank, which gives a scale of one."""
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

"""Patches that are solved as in a build, for tests of what is done with patches later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from moe_patch.data.facts import Fact
from moe_patch.patch import LayerDelta, Patch
from moe_patch.patch.rows import Rows, select_rows, sort_rows
from moe_patch.solve.algebra import edit_kernel, ridge_solve
from moe_patch.stack import Stacked
from tests.patch.patches import D_KEY, D_MODEL, NUM_EXPERTS, fingerprint

RIDGE = 0.05


class World:
    """Facts with rows and residuals in some layers; any of them can be built into a patch together."""

    def __init__(self, count: int, layers: Sequence[int] = (1, 10), seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.facts = [Fact(f"fact-{n}", "{} lies in", f"Town {n}", f"Land {n}") for n in range(count)]
        self.rows = {layer: random_rows(count, generator) for layer in layers}
        self.residual = {layer: torch.randn(count, D_MODEL, generator=generator) for layer in layers}

    def build(self, chosen: Sequence[int], *, relative: bool = False, layers: Sequence[int] = ()) -> Patch:
        """A patch of the chosen facts, in the order given."""
        layers = layers or list(self.rows)
        return Patch(
            kind="delta",
            method="moeedit",
            hyperparameters={"ridge": RIDGE, "ridge_relative": relative, "layers": list(layers)},
            base=fingerprint(*layers),
            facts=tuple(self.facts[n] for n in chosen),
            results=tuple({"loss_before": float(n)} for n in chosen),
            layers={
                layer: self.layer(layer, torch.tensor(list(chosen), dtype=torch.int64), relative)
                for layer in layers
            },
            tools={"moe-patch": "0.1.0"},
            created="2026-01-31T12:00:00+00:00",
        )

    def layer(self, layer: int, chosen: Tensor, relative: bool) -> LayerDelta:
        rows, residual = select_rows(self.rows[layer], chosen), self.residual[layer][chosen]
        gram = edit_kernel(rows)
        ridge = RIDGE * float(gram.diagonal().mean()) if relative else RIDGE
        left = ridge_solve(gram, residual, ridge)
        return LayerDelta.from_solution(left, rows, residual=residual, ridge=ridge)


def apart(world: World, fact: int) -> World:
    """The world with one fact whose keys are at right angles to those of all others."""
    for layer, rows in world.rows.items():
        value = rows.value.clone()  # (nnz, d_k)
        mine = rows.fact == fact
        value[mine, : D_KEY - 1], value[~mine, D_KEY - 1] = 0.0, 0.0
        world.rows[layer] = replace(rows, value=value)
    return world


def random_rows(count: int, generator: torch.Generator) -> Rows:
    """Each fact reaches three of the experts."""
    expert = torch.rand(count, NUM_EXPERTS, generator=generator).topk(3).indices.flatten()  # (3 T,)
    fact = torch.arange(count).repeat_interleave(3)
    return sort_rows(torch.randn(len(fact), D_KEY, generator=generator), expert, fact, count)


def dense(patch: Patch, layer: int) -> Tensor:
    """The deltas of all experts of a layer, (E, d_m, d_k), summed row by row."""
    delta, total = patch.layers[layer], torch.zeros(NUM_EXPERTS, D_MODEL, D_KEY)
    for row, (expert, fact) in enumerate(
        zip(delta.rows.expert.tolist(), delta.rows.fact.tolist(), strict=True)
    ):
        total[expert] += torch.outer(delta.left[fact], delta.rows.value[row])
    if delta.dense is not None:
        for expert, value in zip(delta.dense.expert.tolist(), delta.dense.value, strict=True):
            total[expert] += value
    return total


def stacked(*patches: Patch) -> list[Stacked]:
    return [Stacked(f"patch-{number}", patch, number) for number, patch in enumerate(patches, start=1)]

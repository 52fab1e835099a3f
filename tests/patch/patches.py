"""Small patches with random tensors, for tests that need a patch but no model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from moe_patch.data.facts import Fact
from moe_patch.patch import Fingerprint, LayerDelta, Patch
from moe_patch.patch.fingerprint import TOKEN_PARTS
from moe_patch.patch.rows import Rows, one_left_per_row

NUM_EXPERTS, D_MODEL, D_KEY = 8, 6, 4


def digest(number: int = 0) -> str:
    return f"sha256:{number:064x}"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fingerprint(*layers: int) -> Fingerprint:
    return Fingerprint(
        model_type="qwen3_moe",
        config=digest(1),
        index=digest(2),
        experts={layer: digest(100 + layer) for layer in layers},
        shapes=dict.fromkeys(layers, (NUM_EXPERTS, D_MODEL, D_KEY)),
        nodes={"embeddings": digest(3), "head": digest(4)}
        | {str(layer): digest(200 + layer) for layer in range(12)}
        | {str(layer): digest(200 + layer) for layer in layers},
        tokens={part: digest(300 + number) for number, part in enumerate(TOKEN_PARTS)},
    )


def facts(count: int) -> tuple[Fact, ...]:
    return tuple(
        Fact(
            id=f"fact-{number}",
            prompt="The capital of {} is",
            subject=f"Land {number}",
            target_new="Löwenburg",
            target_true="Altstadt",
            paraphrases=(f"Land {number} is governed from",),
            neighborhood=("The capital of Nachbarland is",),
        )
        for number in range(count)
    )


def layer_delta(num_facts: int, generator: torch.Generator, hits: float = 0.4) -> LayerDelta:
    """Each fact reaches each expert with probability `hits`."""
    reached = torch.rand(NUM_EXPERTS, num_facts, generator=generator) < hits
    expert, fact = reached.nonzero(as_tuple=True)  # (nnz,) each, ascending by (expert, fact)
    left = torch.randn(num_facts, D_MODEL, generator=generator)
    value = torch.randn(len(expert), D_KEY, generator=generator)
    residual = torch.randn(num_facts, D_MODEL, generator=generator)
    rows = Rows(value, expert, fact, num_facts)
    return LayerDelta.from_solution(left, rows, residual=residual, ridge=0.25)


def with_left_per_row(delta: LayerDelta, generator: torch.Generator) -> LayerDelta:
    """The same rows with a left factor for every row, as block coordinate descent returns them."""
    rows = one_left_per_row(delta.rows)
    return replace(delta, left=torch.randn(rows.num_facts, D_MODEL, generator=generator), rows=rows)


def delta_patch(
    num_facts: int = 3, edited: tuple[int, ...] = (1, 10), seed: int = 0, **changes: Any
) -> Patch:
    """A patch of kind delta that edits the layers `edited`; `changes` replace its fields."""
    generator = torch.Generator().manual_seed(seed)
    values: dict[str, Any] = {
        "kind": "delta",
        "method": "moeedit",
        "hyperparameters": {"ridge": 1e-3, "layers": list(edited), "solver": {"name": "exact"}},
        "base": fingerprint(*edited),
        "facts": facts(num_facts),
        "results": tuple({"loss": [5.0, 0.125 * number]} for number in range(num_facts)),
        "layers": {layer: layer_delta(num_facts, generator) for layer in edited},
        "tools": {"moe-patch": "0.1.0"},
        "created": "2026-01-31T12:00:00+00:00",
        "parents": (digest(7),),
    }
    return Patch(**values | changes)


def bypass_patch() -> Patch:
    tensors = {
        "3.router.weight": torch.randn(4, D_MODEL),
        "3.router.bias": torch.tensor(0.5, dtype=torch.bfloat16),  # no dimension
        "3.counts": torch.arange(5),
    }
    return delta_patch(kind="bypass", method="memoe", base=fingerprint(3), layers={}, bypass=tensors)

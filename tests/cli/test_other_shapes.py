"""A forged patch that does not fit its base, though all its hashes are right, is refused by every command."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result

from moe_patch.patch import LayerDelta, Patch, load, save

Run = Callable[..., Result]


def change_layer(patch: Patch, layer: int, shape: tuple[int, int, int], delta: LayerDelta) -> Patch:
    base = dataclasses.replace(patch.base, shapes=patch.base.shapes | {layer: shape})
    return dataclasses.replace(patch, base=base, layers=patch.layers | {layer: delta})


def more_experts(patch: Patch) -> Patch:
    delta, (_, *widths) = patch.layers[0], patch.base.shapes[0]
    expert = torch.cat([delta.rows.expert[:-1], torch.tensor([4_999])])
    rows = dataclasses.replace(delta.rows, expert=expert)
    return change_layer(patch, 0, (5_000, *widths), dataclasses.replace(delta, rows=rows, fact_rows=rows))


def wider_keys(patch: Patch) -> Patch:
    delta, (experts, d_model, d_key) = patch.layers[0], patch.base.shapes[0]
    value = torch.cat([delta.rows.value, torch.ones(len(delta.rows.value), 8)], dim=1)
    rows = dataclasses.replace(delta.rows, value=value)
    changed = dataclasses.replace(delta, rows=rows, fact_rows=rows)
    return change_layer(patch, 0, (experts, d_model, d_key + 8), changed)


def layer_that_is_not_there(patch: Patch) -> Patch:
    def moved(values: dict[int, object]) -> dict[int, object]:
        return {layer or 77: value for layer, value in values.items()}

    base = patch.base
    nodes = base.nodes | {"77": base.nodes["0"]} if base.nodes else {}
    base = dataclasses.replace(base, experts=moved(base.experts), shapes=moved(base.shapes), nodes=nodes)  # type: ignore[arg-type]
    return dataclasses.replace(patch, base=base, layers=moved(patch.layers))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("forge", "said"),
    [
        (more_experts, "layer 0 has the sizes"),
        (wider_keys, "layer 0 has the sizes"),
        (layer_that_is_not_there, "it has no experts in layer 77"),
    ],
)
def test_a_patch_that_does_not_fit(
    forge: Callable[[Patch], Patch], said: str, run: Run, model: Path, patch_file: Path, tmp_path: Path
) -> None:
    path, out = tmp_path / "forged.safetensors", tmp_path / "out"
    save(forge(load(patch_file)), path)
    commands: list[tuple[list[str | Path], int]] = [
        (["verify", path, "--model", model, "--no-ask"], 14),
        (["verify", path, "--model", model], 14),
        (["merge", "--model", model, "--patch", path, "--out", out], 1),
        (["export", path, "--format", "peft", "--model", model, "--out", out], 1),
        (["ask", "Hello", "--model", model, "--patch", path], 1),
        (["eval", path, "--model", model], 1),
    ]
    for command, code in commands:
        found = run(*command)
        assert (command[0], found.exit_code, said in found.output) == (command[0], code, True), found.output
        assert not out.exists()

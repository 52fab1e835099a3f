"""A bypass in a file: it is read back bit for bit, and tensors that do not fit its config are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moe_patch.bypass import read_bypass, read_routed
from moe_patch.errors import MalformedMetadata, MalformedTensor, NotFinite, PatchError
from moe_patch.patch import Patch, load, save
from tests.bypass.bypasses import patch_of, random_bypass
from tests.patch.patches import delta_patch, fingerprint


@pytest.mark.parametrize("changes", [{}, {"router": "mlp", "scope_gate": False, "tokens": "last"}])
def test_saving_and_loading_is_bit_exact(tmp_path: Path, changes) -> None:
    bypass = random_bypass(**changes)
    patch = patch_of(bypass)
    save(patch, tmp_path / "patch.safetensors")
    loaded = load(tmp_path / "patch.safetensors")
    found = read_bypass(loaded)
    assert found.config == bypass.config
    state = found.state_dict()
    assert state.keys() == bypass.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in bypass.state_dict().items())
    assert read_routed(loaded).expert.tolist() == [0, 1, 2, 0]
    assert loaded.hash == patch.hash


def changed(**changes) -> Patch:
    patch = patch_of(random_bypass())
    config = {**patch.hyperparameters["bypass"], **changes}
    return replace(patch, hyperparameters={**patch.hyperparameters, "bypass": config})


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"experts": 0}, "experts"),
        ({"experts": 2**40}, "experts"),
        ({"expert_width": 2**21}, "expert_width"),
        ({"scale": float("inf")}, "scale"),
        ({"scale": "1"}, "scale"),
        ({"router": "__import__"}, "router"),
        ({"colour": "red"}, "colour"),
        ({"layer": 2}, "layer: is 2, but the base's layers are 1"),
    ],
)
def test_configs_that_make_no_sense(changes, match: str) -> None:
    with pytest.raises(MalformedMetadata, match=match):
        read_bypass(changed(**changes))


def test_a_config_that_asks_for_more_than_the_file_holds_is_refused_without_allocating() -> None:
    with pytest.raises(MalformedTensor, match=r"bypass\.1\.experts\.gate"):
        read_bypass(changed(expert_width=2**20, width=2**20, experts=256))


@pytest.mark.parametrize(
    ("name", "tensor", "error", "match"),
    [
        ("1.experts.gate", torch.zeros(3, 8, 31), MalformedTensor, "found torch.float32 of"),
        ("1.experts.down", torch.zeros(3, 32, 8).double(), MalformedTensor, "float64"),
        ("1.router.output.bias", torch.full((4,), torch.nan), NotFinite, "router.output.bias"),
        ("1.router.extra", torch.zeros(1), MalformedTensor, "no such tensor"),
        ("2.experts.gate", torch.zeros(1), MalformedTensor, "no such tensor"),
        ("1.facts.expert", torch.zeros(5, dtype=torch.int32), MalformedTensor, "facts.expert"),
        ("1.facts.expert", None, MalformedTensor, "missing"),
    ],
)
def test_tensors_that_do_not_fit(name: str, tensor, error, match: str) -> None:
    patch = patch_of(random_bypass())
    tensors = {**patch.bypass, name: tensor}
    with pytest.raises(error, match=match):
        read_bypass(replace(patch, bypass={n: t for n, t in tensors.items() if t is not None}))


def test_an_expert_that_does_not_exist() -> None:
    patch = patch_of(random_bypass())
    outside = {**patch.bypass, "1.facts.expert": torch.tensor([0, 1, 2, 3], dtype=torch.int32)}
    with pytest.raises(MalformedTensor, match="expected 0 to 2"):
        read_routed(replace(patch, bypass=outside))


def test_other_patches() -> None:
    with pytest.raises(PatchError, match="of kind delta"):
        read_bypass(delta_patch())
    with pytest.raises(MalformedMetadata, match="the base's layers are 1, 2"):
        read_bypass(patch_of(random_bypass(), base=fingerprint(1, 2)))

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


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"router": "mlp", "scope_gate": False, "tokens": "last"},
        {"router": "published", "attention_width": 5, "merge": "weighted", "top_k": 2},
        {"router": "published", "merge": "soft"},
    ],
)
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
        ({"merge": "mean"}, "merge"),
        ({"top_k": 2}, "top_k is 2"),
        ({"top_k": 300, "merge": "weighted"}, "top_k"),
        ({"attention_width": 0, "router": "published"}, "attention_width"),
        ({"attention_width": 2**21, "router": "published"}, "attention_width"),
        ({"layer": 2}, "layer: is 2, but the base's layers are 1"),
    ],
)
def test_configs_that_make_no_sense(changes, match: str) -> None:
    with pytest.raises(MalformedMetadata, match=match):
        read_bypass(changed(**changes))


def test_a_config_that_asks_for_more_than_the_file_holds_is_refused_without_allocating() -> None:
    with pytest.raises(MalformedTensor, match=r"bypass\.1\.experts\.gate"):
        read_bypass(changed(expert_width=2**20, width=2**20, experts=256))


def test_a_published_router_that_asks_for_more_than_the_file_holds_is_refused_without_allocating() -> None:
    with pytest.raises(MalformedTensor, match=r"bypass\.1\.router"):
        read_bypass(changed(router="published", attention_width=2**20))


@pytest.mark.parametrize(
    ("name", "tensor", "error", "match"),
    [
        ("1.router.query.weight", None, MalformedTensor, "missing"),
        ("1.router.key.weight", torch.zeros(5, 32), MalformedTensor, "found torch.float32 of"),
        ("1.router.alpha", torch.full((1,), torch.inf), NotFinite, "router.alpha"),
        ("1.router.beta", torch.zeros(()), MalformedTensor, "router.beta"),
        ("1.router.output.bias", torch.zeros(4), MalformedTensor, "no such tensor"),
    ],
)
def test_tensors_that_do_not_fit_a_published_router(name: str, tensor, error, match: str) -> None:
    patch = patch_of(random_bypass(router="published"))
    tensors = {**patch.bypass, name: tensor}
    with pytest.raises(error, match=match):
        read_bypass(replace(patch, bypass={n: t for n, t in tensors.items() if t is not None}))


EARLIER = {  # switches, the hash, and what was computed before there were other forms
    "dual-attention": (
        {"router_states": "block-input", "tokens": "all", "scope_gate": True},
        "sha256:f97911d7723f7ae7fb675d708c870bf64f44ff0e9514e4810380795a7456e966",
        [3.106436014175415, -0.7998064756393433, -5.0981268882751465, -3.957172155380249],
    ),
    "mlp": (
        {"router_states": "block-input", "tokens": "last", "scope_gate": False},
        "sha256:2d1cd8f8dd04f4b06a4781fa239e1b2cbef14005a08c3033d82a759e34ab89d9",
        [2.4244422912597656, 1.5708978176116943, -0.4803411662578583],
    ),
}
SIZES = {"layer": 1, "width": 32, "experts": 3, "expert_width": 8, "adapter_width": 6}


@pytest.mark.parametrize("router", EARLIER)
def test_patches_from_before_other_forms_are_the_same_to_the_hash(router: str, tmp_path: Path) -> None:
    switches, hash_, logits = EARLIER[router]
    written = {**SIZES, "router": router, **switches, "scale": 1.0, "alpha": 1.0, "beta": 1.0}
    bypass = random_bypass(router=router, **switches)
    with torch.no_grad():
        for weight in bypass.parameters():
            weight.copy_((torch.arange(weight.numel()) % 17 - 8).view(weight.shape) / 16)
    patch = patch_of(bypass)
    assert patch.hyperparameters["bypass"] == written  # closed schemas of then read it too
    patch = replace(patch, hyperparameters={"bypass": written}, tools={}, created="2025-01-01T00:00:00+00:00")
    assert patch.hash == hash_
    save(patch, tmp_path / "patch.safetensors")
    loaded = load(tmp_path / "patch.safetensors")
    assert loaded.hash == hash_
    x = ((torch.arange(2 * 3 * 32) % 13 - 6) / 8).view(2, 3, 32)
    found = read_bypass(loaded)
    torch.testing.assert_close(
        found.router(x, torch.ones(2, 3, dtype=torch.bool))[0], torch.tensor(logits), rtol=1e-4, atol=1e-4
    )
    assert found(x, torch.tensor([0, 2])).sum().item() == pytest.approx(-6.5530242919921875, rel=1e-4)


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

"""A codebook chooses keys as the definition says, and its file is checked as a stranger's."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from moe_patch.bypass import LEAVE_ALONE, holds_codebook, read_bypass, read_codebook
from moe_patch.bypass.codebook import Codebook, CodebookConfig
from moe_patch.bypass.codebook_file import read_fact_keys, write_codebook
from moe_patch.errors import MalformedMetadata, MalformedTensor, NotFinite, PatchError
from moe_patch.patch import Patch, load, save
from tests.bypass.bypasses import patch_of as experts_patch
from tests.bypass.bypasses import random_bypass
from tests.patch.patches import delta_patch, fingerprint

POINT = st.lists(st.integers(-3, 3).map(float), min_size=2, max_size=2)
KEYS = st.lists(st.tuples(POINT, st.sampled_from([-1.0, 0.0, 1.0, 2.5, 4.0])), min_size=1, max_size=6)


def codebook(keys: list[list[float]], radii: list[float], tokens: str = "prompt") -> Codebook:
    made = Codebook(CodebookConfig(layer=1, width=len(keys[0]), keys=len(keys), tokens=tokens))
    made.key.data, made.radius.data = torch.tensor(keys), torch.tensor(radii)
    made.value.data = torch.arange(len(keys) * len(keys[0])).float().view(len(keys), -1)
    return made.requires_grad_(False)


def patch_of(made: Codebook, fact_key: Tensor | None = None) -> Patch:
    hyperparameters, tensors = write_codebook(made, torch.tensor([0, -1]) if fact_key is None else fact_key)
    return delta_patch(
        2,
        kind="bypass",
        method="grace",
        hyperparameters=hyperparameters,
        base=fingerprint(1),
        layers={},
        bypass=tensors,
    )


@given(KEYS, POINT)
def test_the_key_is_the_nearest_if_its_ball_holds_the_query(
    keys: list[tuple[list[float], float]], query: list[float]
) -> None:
    made = codebook([key for key, _ in keys], [radius for _, radius in keys])
    distances = [math.dist(key, query) for key, _ in keys]
    nearest = max(n for n, distance in enumerate(distances) if distance == min(distances))
    expected = nearest if distances[nearest] <= keys[nearest][1] else LEAVE_ALONE
    states = torch.full((1, 3, 2), 9.0)
    states[0, 1] = torch.tensor(query)
    prompt = torch.tensor([[True, True, False]])  # the last token is padding
    assert made.route(states, prompt).tolist() == [expected]


def test_a_query_that_is_a_key_of_many_is_at_distance_zero() -> None:
    torch.manual_seed(0)
    keys = 100 * torch.randn(64, 48)
    made = codebook(keys.tolist(), [0.0] * 64)
    assert made.route(keys[:, None], torch.ones(64, 1, dtype=torch.bool)).tolist() == list(range(64))


def test_values_stand_at_the_prompt_or_at_its_last_token_alone() -> None:
    prompt = torch.tensor([[False, True, True, False], [True, False, False, False]])
    assert codebook([[0.0, 0.0]], [1.0]).replaced(prompt).equal(prompt)
    last = codebook([[0.0, 0.0]], [1.0], "last").replaced(prompt)
    assert last.tolist() == [[False, False, True, False], [True, False, False, False]]


def test_it_is_the_same_from_its_file(tmp_path: Path) -> None:
    made = codebook([[1.0, 2.0], [3.0, 4.0], [0.5, 0.0]], [1.0, -1e-5, 0.25], "last")
    patch = patch_of(made)
    save(patch, tmp_path / "a.safetensors")
    again = load(tmp_path / "a.safetensors")
    assert holds_codebook(again)
    assert not holds_codebook(experts_patch(random_bypass()))
    read = read_codebook(again)
    assert read.config == made.config
    assert all(tensor.equal(made.state_dict()[name]) for name, tensor in read.state_dict().items())
    assert read_fact_keys(again).tolist() == [0, -1]


def changed(patch: Patch, name: str, tensor: Tensor | None) -> Patch:
    tensors = {key: value for key, value in patch.bypass.items() if key != name}
    return replace(patch, bypass=tensors if tensor is None else tensors | {name: tensor})


@pytest.mark.parametrize(
    ("name", "tensor", "error", "match"),
    [
        ("1.codebook.key", None, MalformedTensor, "missing"),
        ("1.codebook.key", torch.zeros(3, 2), MalformedTensor, r"shape \(1, 2\)"),
        ("1.codebook.value", torch.zeros(1, 2, dtype=torch.float64), MalformedTensor, "float32"),
        ("1.codebook.value", torch.full((1, 2), torch.nan), NotFinite, "finite"),
        ("1.codebook.radius", torch.full((1,), torch.inf), NotFinite, "finite"),
        ("1.codebook.more", torch.zeros(1), MalformedTensor, "no such tensor"),
        ("1.facts.key", torch.zeros(3, dtype=torch.int32), MalformedTensor, r"shape \(2,\)"),
    ],
)
def test_a_wrong_tensor_is_named(name: str, tensor: Tensor | None, error: type, match: str) -> None:
    with pytest.raises(error, match=match):
        read_codebook(changed(patch_of(codebook([[0.0, 0.0]], [1.0])), name, tensor))


def test_a_key_that_does_not_exist_is_named() -> None:
    patch = patch_of(codebook([[0.0, 0.0]], [1.0]), torch.tensor([0, 1]))
    with pytest.raises(MalformedTensor, match="expected -1 to 0"):
        read_fact_keys(patch)


@pytest.mark.parametrize(
    "config",
    [
        {"layer": 2, "width": 2, "keys": 1, "tokens": "prompt"},  # not the base's layer
        {"layer": 1, "width": 2, "keys": 2**21, "tokens": "prompt"},
        {"layer": 1, "width": 2, "keys": 1, "tokens": "all"},
        {"layer": 1, "width": 2, "keys": 1, "tokens": "prompt", "more": 1},
        None,
    ],
)
def test_a_wrong_config_is_named(config) -> None:
    patch = patch_of(codebook([[0.0, 0.0]], [1.0]))
    with pytest.raises(MalformedMetadata, match=r"hyperparameters\.codebook"):
        read_codebook(replace(patch, hyperparameters={"codebook": config}))


def test_neither_is_read_as_the_other() -> None:
    with pytest.raises(PatchError, match="codebook"):
        read_codebook(experts_patch(random_bypass()))
    with pytest.raises(PatchError, match="bypass"):
        read_bypass(patch_of(codebook([[0.0, 0.0]], [1.0])))

"""A patch as a file: what is written is what is read."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import get_args

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from safetensors import safe_open

from moe_patch import patch as patch_module
from moe_patch.data.facts import Fact
from moe_patch.errors import WrongBase
from moe_patch.io.ranges import LARGEST_NUMBER
from moe_patch.patch import Patch, check_base, load, save
from moe_patch.patch.controls import Control, Controls
from moe_patch.patch.schema import FactSchema
from tests.patch.patches import (
    D_KEY,
    D_MODEL,
    bypass_patch,
    delta_patch,
    digest,
    fingerprint,
    generator,
    layer_delta,
    with_left_per_row,
)

FORMAT_1 = Path(__file__).parent / "data" / "format-1.safetensors"


def assert_same(first: Patch, second: Patch) -> None:
    assert first.hash == second.hash
    assert first.body() == second.body()
    ours, theirs = first.tensors(), second.tensors()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype
        assert torch.equal(tensor, theirs[name])


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64) + 1, 2**64 - 1)
    | st.floats(-LARGEST_NUMBER, LARGEST_NUMBER)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


words = st.text(min_size=1).map(str.strip).filter(lambda text: text != "" and "{}" not in text)


@st.composite
def facts(draw: st.DrawFn, count: int) -> tuple[Fact, ...]:
    return tuple(
        Fact(
            id=f"{number} {draw(words)}",
            prompt=f"{draw(words)} {{}} {draw(words)}",
            subject=draw(words),
            target_new=draw(words),
            target_true=draw(st.none() | words),
            paraphrases=tuple(draw(st.lists(words, max_size=2))),
            neighborhood=tuple(draw(st.lists(words, max_size=2))),
        )
        for number in range(count)
    )


controls = st.builds(
    Controls,
    st.lists(st.builds(Control, words, words, st.floats(-1e3, 0)), min_size=1, max_size=3).map(tuple),
    st.floats(0, 1e3),
)


@st.composite
def patches(draw: st.DrawFn) -> Patch:
    count = draw(st.integers(0, 4))
    random = generator(draw(st.integers(0, 1000)))
    layers = {}
    for layer in draw(st.lists(st.integers(0, 200), min_size=1, max_size=3, unique=True)):
        delta = layer_delta(count, random, hits=draw(st.sampled_from([0.0, 0.4, 1.0])))
        form = draw(st.sampled_from(["shared left", "left per row", "not solvable again"]))
        if form == "left per row":
            delta = with_left_per_row(delta, random)
        if form == "not solvable again":
            delta = replace(delta, residual=None)
        layers[layer] = replace(delta, ridge=draw(st.floats(0, 1e6)))
    return delta_patch(
        base=fingerprint(*layers),
        facts=draw(facts(count)),
        results=draw(st.just(()) | st.tuples(*[st.dictionaries(st.text(), json_values, max_size=2)] * count)),
        layers=layers,
        hyperparameters=draw(st.dictionaries(st.text(), json_values, max_size=3)),
        parents=tuple(digest(number) for number in draw(st.lists(st.integers(0, 99), max_size=2))),
        schema=draw(st.sampled_from(get_args(FactSchema))),
        controls=draw(st.none() | controls),
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(patch=patches())
def test_what_is_saved_is_what_is_loaded(patch: Patch, tmp_path: Path) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    save(patch, first)
    loaded = load(first)
    assert_same(patch, loaded)
    assert loaded.facts == patch.facts
    assert loaded.base == patch.base
    assert loaded.schema == patch.schema
    assert loaded.controls == patch.controls
    save(loaded, second)
    assert first.read_bytes() == second.read_bytes()


def test_a_file_of_format_1_is_read_and_written_as_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    patch = load(FORMAT_1)
    assert (patch.base.format, patch.schema) == (1, "native")
    save(patch, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == FORMAT_1.read_bytes()
    check_base(patch, patch.base)
    assert "of format 1" in caplog.text
    with pytest.raises(WrongBase, match="cannot be compared"):
        check_base(patch, fingerprint(1))


def test_a_bypass_keeps_its_tensors_verbatim(tmp_path: Path) -> None:
    patch = bypass_patch()
    save(patch, tmp_path / "p.safetensors")
    loaded = load(tmp_path / "p.safetensors")
    assert_same(patch, loaded)
    assert loaded.bypass["3.router.bias"].dtype == torch.bfloat16
    assert loaded.bypass["3.router.bias"].shape == ()


def test_names_and_dtypes_are_those_of_the_specification(tmp_path: Path) -> None:
    random = generator()
    delta = with_left_per_row(layer_delta(3, random), random)
    save(delta_patch(edited=(4,), layers={4: delta}), tmp_path / "p.safetensors")
    nnz = len(delta.rows.value)
    with safe_open(tmp_path / "p.safetensors", framework="pt") as file:
        found = {
            name: (file.get_slice(name).get_dtype(), file.get_slice(name).get_shape())
            for name in file.keys()  # noqa: SIM118 (not a mapping)
        }
        assert list(file.metadata()) == ["moe_patch"]
    assert found == {
        "delta.4.left": ("F32", [nnz, D_MODEL]),
        "delta.4.right": ("F32", [nnz, D_KEY]),
        "delta.4.expert": ("I32", [nnz]),
        "delta.4.fact": ("I32", [nnz]),
        "solve.4.residual": ("F32", [3, D_MODEL]),
        "solve.4.key": ("F32", [nnz, D_KEY]),
        "solve.4.expert": ("I32", [nnz]),
        "solve.4.fact": ("I32", [nnz]),
    }


def test_tensors_that_share_memory_are_saved(tmp_path: Path) -> None:
    delta = layer_delta(3, generator())
    shared = replace(delta, residual=delta.left)
    save(delta_patch(edited=(1,), layers={1: shared}), tmp_path / "p.safetensors")
    residual = load(tmp_path / "p.safetensors").layers[1].residual
    assert residual is not None
    assert torch.equal(residual, delta.left)


@pytest.mark.parametrize("patch", [delta_patch(), bypass_patch()], ids=["delta", "bypass"])
@pytest.mark.parametrize("fate", ["rewritten", "truncated", "deleted"])
def test_nothing_that_happens_to_the_file_changes_what_was_loaded(
    patch: Patch, fate: str, tmp_path: Path
) -> None:
    path = tmp_path / "p.safetensors"
    save(patch, path)
    loaded = load(path)
    if fate == "rewritten":
        with path.open("r+b") as file:
            file.write(b"\xff" * path.stat().st_size)
    elif fate == "truncated":
        os.truncate(path, 0)
    else:
        path.unlink()
    assert patch_module.content_hash(loaded.body(), loaded.tensors()) == patch.hash

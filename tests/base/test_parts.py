"""Every tensor of a model counts, in memory as on the disk, and is hashed by its values."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from safetensors.torch import load_file, save_file
from torch import Tensor

from moe_patch.apply import apply
from moe_patch.base import leaves as leaves_module
from moe_patch.base.digests import RUN, Pieces, hash_pieces, leaf_hash, piece_hash, run_count, runs
from moe_patch.base.model import Base
from moe_patch.base.opening import open_base, wrap
from moe_patch.checkpoint import open_checkpoint
from moe_patch.checkpoint.leaves import StoredLeaves
from moe_patch.errors import WrongBase
from moe_patch.patch import check_base
from moe_patch.patch.fingerprint import differences
from tests.tiny import tiny_base, tiny_patch

TYPES = ("qwen3_moe", "gpt_oss", "deepseek_v3", "qwen2_moe")  # biases, a buffer, shared experts, dense layers


@pytest.fixture(scope="module", params=TYPES)
def base(request: pytest.FixtureRequest) -> Base:
    return tiny_base(request.param)


def change(values: Tensor, place: int) -> None:
    """Change the lowest bit of one element."""
    flat = values.view(-1)
    size = {2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()]
    flat[place % len(flat)] = (flat[place % len(flat)].view(size) ^ 1).view(values.dtype)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bit_of_any_tensor_makes_another_base(base: Base, data: st.DataObject) -> None:
    patch = tiny_patch(base)
    tensors = base.model.state_dict()
    tensor = tensors[data.draw(st.sampled_from(sorted(tensors)))]
    kept, place = tensor.clone(), data.draw(st.integers(0, tensor.numel() - 1))
    change(tensor, place)
    try:
        with pytest.raises(WrongBase):
            apply(base, patch)
    finally:
        tensor.copy_(kept)
    check_base(patch, base.fingerprint_like(patch.base))


@pytest.mark.parametrize("attention", ["full_attention", "sliding_attention"])
def test_the_same_tensors_under_another_attention_are_another_base(attention: str) -> None:
    base = tiny_base("gpt_oss")  # layers of both kinds
    patch = tiny_patch(base)
    base.model.config.layer_types = [attention] * base.num_layers
    with pytest.raises(WrongBase, match="its config differs"):
        apply(base, patch)


def test_format_1_does_not_cover_the_kinds_of_attention() -> None:
    """Its patches were built before these counted, and their bases are still their bases."""
    base = tiny_base("gpt_oss")
    known = replace(base.fingerprint([0]), nodes={}, tokens={})
    before = base.fingerprint_like(known).config
    base.model.config.layer_types = ["full_attention"] * base.num_layers
    assert base.fingerprint_like(known).config == before != known.config


@pytest.fixture(scope="module")
def folder(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    base.model.save_pretrained(folder)
    return folder


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bit_on_the_disk_makes_another_base(base: Base, folder: Path, data: st.DataObject) -> None:
    patch, file = tiny_patch(base), folder / "model.safetensors"
    before = file.read_bytes()
    stored = load_file(file)
    tensor = stored[data.draw(st.sampled_from(sorted(stored)))]
    change(tensor, data.draw(st.integers(0, tensor.numel() - 1)))
    try:
        save_file(stored, file, metadata={"format": "pt"})
        with pytest.raises(WrongBase):
            check_base(patch, open_checkpoint(folder).fingerprint_like(patch.base))
    finally:
        file.write_bytes(before)


def test_the_part_that_changed_has_a_name() -> None:
    known, other = tiny_base("qwen3_moe"), tiny_base("qwen3_moe")
    for path in (
        "model.embed_tokens.weight",
        "model.layers.0.mlp.gate.weight",
        "model.layers.1.self_attn.q_norm.weight",
        "lm_head.weight",
    ):
        other.model.get_parameter(path).data[0] += 1
    other = wrap(other.model, other.tokenizer)
    first, second = known.fingerprint([0]), other.fingerprint([0])
    assert differences(first, second, [0]) == [
        "its embeddings differ",
        "attention, norms, routers or other weights of layers 0-1 differ",
        "its last norm or its head differs",
    ]
    assert first.address(0)["nodes"].keys() == {"embeddings", "0"}


class TestRecord:
    """The hashes of a folder are computed once, whoever comes first."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        base = tiny_base("qwen3_moe")
        base.model.bfloat16().save_pretrained(tmp_path)
        base.tokenizer.save_pretrained(tmp_path)
        for path in tmp_path.iterdir():
            os.utime(path, (0, 0))
        return tmp_path

    def test_a_model_that_is_opened_knows_what_was_read_from_the_files(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        known = open_checkpoint(folder).fingerprint([1])
        half, single = open_base(folder), open_base(folder, dtype=torch.float32)
        coarse = open_base(folder, dtype=torch.float16)  # does not hold all numbers
        assert coarse.fingerprint([1]).root != known.root
        monkeypatch.setattr(leaves_module, "_hash", None)
        assert half.fingerprint([1]) == single.fingerprint([1]) == known

    def test_the_files_are_known_by_what_a_model_has_hashed(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        changed = open_base(folder)
        with torch.no_grad():
            changed.model.model.norm.weight.add_(1)
        other = changed.fingerprint([1])
        assert open_checkpoint(folder).known_pieces() is None
        known = open_base(folder).fingerprint([1])
        monkeypatch.setattr(StoredLeaves, "_hash", None)
        assert open_checkpoint(folder).fingerprint([1]) == known
        assert other.root != known.root


class TestMemory:
    def test_only_what_changed_is_hashed_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        base, hashed = tiny_base("qwen3_moe"), list[str]()
        real = leaves_module._hash
        monkeypatch.setattr(
            leaves_module, "_hash", lambda part, *rest: hashed.append(part.name) or real(part, *rest)
        )
        patch = tiny_patch(base)
        assert len(hashed) == len(base.parts())
        hashed.clear()
        with apply(base, patch), apply(base, tiny_patch(base, [1], seed=2)):
            assert base.fingerprint(base.layers) == patch.base
        assert base.fingerprint(base.layers) == patch.base
        assert hashed == []
        with torch.no_grad():
            base.model.model.norm.weight.add_(1)
        assert base.fingerprint(base.layers).nodes["head"] != patch.base.nodes["head"]
        assert hashed == ["norm.weight"]

    def test_a_change_under_a_merged_patch_is_seen(self) -> None:
        base = tiny_base("qwen3_moe")
        known = base.fingerprint([0])
        with apply(base, tiny_patch(base, [0])):
            expert = max(set(range(8)) - base.layer(0).originals.keys())
            base.layer(0).down(expert)[0, 0] += 1
            assert base.fingerprint([0]).experts != known.experts

    def test_tied_tensors_are_one_wherever_they_are_stored(self, tmp_path: Path) -> None:
        base = tiny_base("qwen3_moe", tie_word_embeddings=True)
        base.tokenizer.save_pretrained(tmp_path)
        known = base.fingerprint([0])
        assert [part.name for part in base.parts() if part.aliases] == ["embed_tokens.weight"]
        base.model.save_pretrained(tmp_path)
        stored = load_file(tmp_path / "model.safetensors")
        file, embeddings = tmp_path / "model.safetensors", stored["model.embed_tokens.weight"]

        def found(**changed: Tensor) -> object:
            renamed = {name.replace("__", "."): tensor for name, tensor in changed.items()}
            kept = {name: tensor for name, tensor in stored.items() if name != "model.embed_tokens.weight"}
            save_file(kept | renamed, file, metadata={"format": "pt"})
            fingerprint = open_checkpoint(tmp_path).fingerprint([0])
            assert replace(fingerprint, tokens={}) == without_tokenizer(tmp_path).fingerprint([0])
            return fingerprint

        assert found(model__embed_tokens__weight=embeddings) == known
        assert found(lm_head__weight=embeddings) == known
        twice = {"model__embed_tokens__weight": embeddings, "lm_head__weight": embeddings.clone()}
        assert found(**twice) == known
        assert found(**twice | {"lm_head__weight": embeddings + 1}) != known


def without_tokenizer(folder: Path) -> Base:
    from transformers import AutoModelForCausalLM

    return wrap(AutoModelForCausalLM.from_pretrained(folder).eval(), None)


class TestDigests:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
    def test_a_wider_copy_has_the_same_hash(self, dtype: torch.dtype) -> None:
        values = torch.randn(5000, generator=torch.Generator().manual_seed(0)).to(dtype)
        values[:4] = torch.tensor([0.0, -0.0, float("inf"), float("nan")])
        hashes = {piece_hash(values.to(wider)) for wider in (dtype, torch.float32, torch.float64)}
        assert len(hashes) == 1
        values[1] = 0.0  # not -0
        assert piece_hash(values) not in hashes

    @pytest.mark.parametrize("make", [lambda t: t + 1, lambda t: t[:-1], lambda t: t.view(torch.int32)])
    def test_other_values_lengths_and_dtypes_have_others(self, make: Callable[[Tensor], Tensor]) -> None:
        values = torch.arange(5000.0)
        assert piece_hash(values) != piece_hash(make(values))

    def test_a_tensor_is_hashed_in_runs_and_by_its_shape(self) -> None:
        values = torch.arange(RUN + 3).view(1, -1)
        work = [
            Pieces("a", number, run.nbytes, lambda run=run: (run,)) for number, run in enumerate(runs(values))
        ]
        found = hash_pieces(reversed(work))["a"]
        assert found.shape == (run_count(values.shape), 32) == (2, 32)
        assert bytes(found[1].tolist()) == piece_hash(values[0, RUN:])
        assert leaf_hash(values.shape, found) != leaf_hash(values.T.shape, found)

    def test_nothing_has_a_hash_too(self) -> None:
        assert run_count((0, 4)) == len(list(runs(torch.zeros(0, 4)))) == 1

"""Patches on and off a running engine: what it says, what it holds, and what is left when they are gone."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import moe_patch
from moe_patch.base.opening import wrap
from moe_patch.errors import ModelError, NotFinite, OversizedEdit, PatchError, StackError, WrongBase
from moe_patch.patch import Patch, save
from moe_patch_serving.load.loader import LoadedPatches
from moe_patch_serving.source import served_checkpoint
from moe_patch_serving.worker.experts import ServedExperts
from moe_patch_serving.worker.live import LIMIT, LivePatches
from tests.patch.patches import bypass_patch
from tests.serving.engines import MODELS, Engine, base, folder, greedy, served, start
from tests.tiny import tiny_model, tiny_patch

EMPTY = {"patches": [], "loaded": [], "bytes_kept": 0, "layers": [], "experts": 0}


@pytest.fixture
def engine() -> Iterator[Engine]:
    """An engine with nothing on, which must be as it was when the test is over."""
    engine = served("qwen3_moe")
    before = engine.weights()
    yield engine
    for digest in engine.rpc("state")["patches"]:
        engine.rpc("remove", digest)
    assert engine.weights() == before
    assert engine.rpc("state").items() >= EMPTY.items()


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Patch]:
    """Three patches that overlap in layers and experts, by the path of their file."""
    place, found = tmp_path_factory.mktemp("patches"), {}
    for seed, layers in enumerate(([0, 1], [1, 2], [1])):
        patch = tiny_patch(base("qwen3_moe"), layers, seed=seed, scale=0.4)
        path = place / f"{seed}.safetensors"
        save(patch, path)
        found[str(path)] = patch
    return found


def test_workers_do_what_they_are_told(engine: Engine, patches: dict[str, Patch]) -> None:
    (first, second, third), hashes = patches, [patch.hash for patch in patches.values()]
    assert engine.rpc("add", first, hashes[0])["patches"] == hashes[:1]
    assert engine.rpc("add", third, hashes[2])["patches"] == [hashes[0], hashes[2]]
    assert engine.rpc("add", second, hashes[1], 2)["patches"] == hashes
    assert engine.rpc("reorder", hashes[::-1])["patches"] == hashes[::-1]
    assert engine.rpc("remove", hashes[1])["patches"] == [hashes[2], hashes[0]]
    assert engine.rpc("state")["patches"] == [hashes[2], hashes[0]]


@pytest.mark.parametrize("model", MODELS)
def test_it_says_what_transformers_says(model: str, tmp_path: Path) -> None:
    engine, patch = served(model), tiny_patch(base(model), scale=0.4)
    save(patch, tmp_path / "patch.safetensors")
    before, weights = engine.greedy(), engine.weights()
    state = engine.rpc("add", str(tmp_path / "patch.safetensors"), patch.hash)
    with moe_patch.apply(base(model), patch):
        assert engine.greedy() == greedy(base(model)) != before
    assert state["layers"] == sorted(base(model).layers)
    assert state["experts"] == sum(len(delta.experts()) for delta in patch.layers.values())
    engine.rpc("remove", patch.hash)
    assert engine.weights() == weights
    assert engine.greedy() == before


def test_several_say_what_transformers_says_with_them(engine: Engine, patches: dict[str, Patch]) -> None:
    for path, patch in patches.items():
        engine.rpc("add", path, patch.hash)
    with moe_patch.Stack(base("qwen3_moe")) as stack:
        stack.extend(patches.values())
        assert engine.greedy() == greedy(base("qwen3_moe"))


@pytest.fixture
def live(engine: Engine) -> LivePatches:
    config = engine.llm.llm_engine.vllm_config
    checkpoint = served_checkpoint(config.model_config, config.load_config)
    return LivePatches(ServedExperts(engine.model), checkpoint)


def test_weights_follow_from_what_is_on_and_not_from_how_it_came(
    live: LivePatches, engine: Engine, patches: dict[str, Patch]
) -> None:
    known: dict[tuple[str, ...], str] = {}
    for order in itertools.permutations(patches.values()):
        for patch in order:
            live.add(patch)
            assert known.setdefault(tuple(live.hashes), engine.weights()) == engine.weights()
        for patch in order:
            live.remove(patch.hash)
            assert known.setdefault(tuple(live.hashes), engine.weights()) == engine.weights()
    for order in itertools.permutations(patches.values()):
        for patch in patches.values():
            live.add(patch, position=1)
        live.reorder([patch.hash for patch in order])
        assert known[tuple(live.hashes)] == engine.weights()
        for patch in patches.values():
            live.remove(patch.hash)
    assert len(set(known.values())) > len(patches)


def test_half_precision_is_rounded_once_as_in_memory(patches: dict[str, Patch]) -> None:
    engine = served("qwen3_moe", "bfloat16")
    before = engine.weights()
    for path, patch in patches.items():
        assert "error" not in engine.rpc("add", path, patch.hash)
    model = tiny_model("qwen3_moe", head_dim=32, moe_intermediate_size=32).to(torch.bfloat16)
    with moe_patch.Stack(wrap(model, tokenizer=None), check=False) as stack:
        stack.extend(patches.values())
        experts = ServedExperts(engine.model)
        for known in wrap(model, tokenizer=None).layers.values():
            layer = experts.layer(known)
            assert layer is not None
            for expert in range(known.num_experts):
                assert torch.equal(layer.layout.unpack(layer.stored(expert)), known.down(expert))
    for patch in patches.values():
        engine.rpc("remove", patch.hash)
    assert engine.weights() == before


def too_large(patch: Patch) -> Patch:
    """A patch whose last expert's edit is beyond fp32, after others that are not."""
    layer, delta = max(patch.layers.items())
    value = delta.rows.value.clone()
    value[-1] = 3e38
    rows = dataclasses.replace(delta.rows, value=value)
    return dataclasses.replace(
        patch, layers=patch.layers | {layer: dataclasses.replace(delta, left=delta.left * 1e3, rows=rows)}
    )


def own(state: dict[str, Any]) -> dict[str, Any]:
    """A state but for what a thread is still finding out about the base."""
    return {name: value for name, value in state.items() if name != "base"}


def test_a_failed_add_leaves_everything_as_it_was(
    live: LivePatches, engine: Engine, patches: dict[str, Patch]
) -> None:
    first, second, third = patches.values()
    live.add(first)
    weights, state = engine.weights(), own(live.state())
    for position in (1, 2):
        with pytest.raises(NotFinite, match="layer 2, expert 6: with the patch, the weight overflows"):
            live.add(too_large(second), position, allow_large=True)
        assert engine.weights() == weights
        assert own(live.state()) == state
    live.add(third)
    live.remove(third.hash)
    live.remove(first.hash)


def test_a_change_much_larger_than_its_expert_is_refused_before_anything_is_written(
    live: LivePatches, engine: Engine, patches: dict[str, Patch]
) -> None:
    first, second, _ = patches.values()
    live.add(first)
    weights, state = engine.weights(), live.state()
    with pytest.raises(OversizedEdit, match="layer 2, expert 6: the norm of the change is"):
        live.add(too_large(second))
    assert (engine.weights(), live.state()) == (weights, state)
    live.remove(first.hash)


def test_what_is_kept_is_bounded(engine: Engine, patches: dict[str, Patch]) -> None:
    first, second, _ = patches.values()
    config = engine.llm.llm_engine.vllm_config
    checkpoint = served_checkpoint(config.model_config, config.load_config)
    one = base("qwen3_moe").layer(1).down(0).nbytes
    bound = one * sum(len(delta.experts()) for delta in first.layers.values())
    live = LivePatches(ServedExperts(engine.model), checkpoint, max_kept_bytes=bound)
    live.add(first)
    assert live.state()["bytes_kept"] == bound
    with pytest.raises(ModelError, match=rf"{LIMIT} allows {bound:,}"):
        live.add(second)
    assert live.hashes == [first.hash]
    live.remove(first.hash)
    live.add(second)
    live.remove(second.hash)


def test_what_makes_no_sense_is_refused(live: LivePatches, patches: dict[str, Patch]) -> None:
    first, second, _ = patches.values()
    live.add(first)
    with pytest.raises(PatchError, match="already"):
        live.add(first)
    with pytest.raises(StackError, match="positions 1 to 2, not at 3"):
        live.add(second, position=3)
    with pytest.raises(StackError, match="not on this model"):
        live.remove(second.hash)
    with pytest.raises(StackError, match="each of the 1"):
        live.reorder([first.hash, second.hash])
    with pytest.raises(PatchError, match=r"'bypass'.*--load-format"):
        live.add(bypass_patch())
    with pytest.raises(WrongBase):
        live.add(tiny_patch(wrap(tiny_model("qwen3_moe", seed=9), tokenizer=None), [1]))
    assert live.hashes == [first.hash]
    live.remove(first.hash)


def test_a_worker_answers_with_what_is_wrong(
    engine: Engine, patches: dict[str, Patch], tmp_path: Path
) -> None:
    path, patch = next(iter(patches.items()))
    before = engine.weights()
    answers = {
        "HashMismatch": engine.rpc("add", path, "sha256:" + "0" * 64),
        "PatchError": engine.rpc("add", str(tmp_path / "absent.safetensors"), patch.hash),
        "StackError": engine.rpc("remove", patch.hash),
    }
    for name, answer in answers.items():
        assert answer["error"]["type"] == name
        assert answer["error"]["message"]
    assert engine.weights() == before


def says(*patches: Patch) -> list[list[int]]:
    """The answers of transformers with these patches."""
    with moe_patch.Stack(base("qwen3_moe")) as stack:
        stack.extend(patches)
        return greedy(base("qwen3_moe"))


def test_what_was_loaded_can_go_and_more_can_come(patches: dict[str, Patch], engine: Engine) -> None:
    (path, first), (other, second), (third_path, third) = patches.items()
    bare = engine.weights()
    loaded = start("qwen3_moe", load_format="moe_patch", model_loader_extra_config={"patch": path})
    as_loaded = loaded.weights()
    assert as_loaded != bare
    assert loaded.rpc("add", path, first.hash)["error"]["type"] == "PatchError"
    assert "was loaded with the weights" in loaded.rpc("remove", first.hash)["error"]["message"]
    assert loaded.rpc("add", other, second.hash)["patches"] == [second.hash]
    both = loaded.weights()
    assert loaded.greedy() == says(first, second)

    state = loaded.rpc("ground", [])
    assert (state["loaded"], state["patches"]) == ([], [second.hash])
    assert loaded.greedy() == says(second)
    loaded.rpc("remove", second.hash)
    assert loaded.weights() == bare
    loaded.rpc("ground", [first.hash])
    assert loaded.weights() == as_loaded
    loaded.rpc("add", other, second.hash)
    assert loaded.weights() == both

    state = loaded.rpc("ground", [first.hash], third_path, third.hash)  # all that was loaded stays as it was
    assert loaded.weights() == both
    assert "was not loaded" in loaded.rpc("ground", [third.hash])["error"]["message"]
    assert loaded.rpc("ground", [], third_path, first.hash)["error"]["type"] == "HashMismatch"
    assert loaded.weights() == both


def test_weights_that_are_not_what_was_loaded_are_left_alone(
    live: LivePatches, engine: Engine, patches: dict[str, Patch]
) -> None:
    first, _, _ = patches.values()
    config = engine.llm.llm_engine.vllm_config
    checkpoint = served_checkpoint(config.model_config, config.load_config)
    loaded = LoadedPatches((first.hash,), first)  # which this engine has not
    misled = LivePatches(ServedExperts(engine.model), checkpoint, loaded=loaded)
    before = engine.weights()
    with pytest.raises(ModelError, match="what is in memory is not the checkpoint's weight"):
        misled.set_ground([])
    assert engine.weights() == before
    bounded = LivePatches(ServedExperts(engine.model), checkpoint, loaded=loaded, max_kept_bytes=100)
    with pytest.raises(ModelError, match=rf"{LIMIT} allows 100"):
        bounded.set_ground([])
    assert bounded.state()["loaded"] == [first.hash]


def test_another_model_s_files_give_it_away(patches: dict[str, Patch]) -> None:
    engine = served("mixtral")
    path, patch = next(iter(patches.items()))
    answer = engine.rpc("add", path, patch.hash)
    assert answer["error"]["type"] == "WrongBase"
    assert str(folder("mixtral")) not in answer["error"]["message"]

"""The load format on real engines, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from vllm.config.load import LoadConfig
from vllm.engine.arg_utils import EngineArgs

import moe_patch
from moe_patch.errors import ConfigError, ModelError, PatchError, StackError
from moe_patch.patch import Patch, save
from moe_patch.patch.base_record import BaseRecord
from moe_patch.stack import change_lock, create_lock, operations
from moe_patch.stack.members import entry_for
from moe_patch_serving.load.loader import PatchLoader, loaded_patches
from moe_patch_serving.source import served_checkpoint
from tests.serving.engines import MODELS, base, folder, greedy, served, start
from tests.tiny import tiny_patch


def loader(extra: Any) -> PatchLoader:
    return PatchLoader(LoadConfig(load_format="moe_patch", model_loader_extra_config=extra))


def stack_of(place: Path, *patches: Patch) -> Path:
    """A stack that adds patches up."""
    lock_path = place / "moe-patch.stack"
    create_lock(lock_path)
    change_lock(lock_path, partial(operations.set_combine, combine="add"))
    for number, patch in enumerate(patches):
        path = place / f"{number}.safetensors"
        save(patch, path)
        entry, record = entry_for(path, patch, lock_path), BaseRecord.of(patch.base)
        change_lock(
            lock_path, lambda lock, entry=entry, record=record: operations.add_entry(lock, entry, record)
        )
    return lock_path


def about(subjects: str, patch: Patch) -> Patch:
    """The patch with subjects of its own: where two answer one prompt, only the later one counts."""
    facts = tuple(dataclasses.replace(fact, subject=f"{subjects} {fact.subject}") for fact in patch.facts)
    return dataclasses.replace(patch, facts=facts)


@pytest.mark.parametrize("model", MODELS)
def test_an_engine_says_what_transformers_says(model: str) -> None:
    assert served(model).greedy() == greedy(base(model))


@pytest.mark.parametrize("model", MODELS)
def test_a_patched_engine_says_what_transformers_says_with_the_patch(model: str, tmp_path: Path) -> None:
    patch = tiny_patch(base(model), scale=0.4)
    save(patch, tmp_path / "patch.safetensors")
    engine = start(
        model,
        load_format="moe_patch",
        model_loader_extra_config={"patch": str(tmp_path / "patch.safetensors")},
    )
    with moe_patch.apply(base(model), patch):
        expected = greedy(base(model))
    assert engine.greedy() == expected != greedy(base(model))
    assert loaded_patches(engine.model).hashes == (patch.hash,)


def test_a_stack_is_all_its_patches(tmp_path: Path) -> None:
    patches = [
        about("A", tiny_patch(base("qwen3_moe"), [0, 1], seed=1)),
        about("B", tiny_patch(base("qwen3_moe"), [1, 2], seed=2)),
    ]
    stack = stack_of(tmp_path, *patches)
    engine = start("qwen3_moe", load_format="moe_patch", model_loader_extra_config={"stack": str(stack)})
    with moe_patch.Stack(base("qwen3_moe")) as both:
        both.extend(patches)
        assert engine.greedy() == greedy(base("qwen3_moe"))
    assert engine.rpc("state")["loaded"] == [patch.hash for patch in patches]


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"patch": 3},
        {"patch": ""},
        {"stack": "a", "patch": "b"},
        "patch",
        {"patches": ["a"]},
        {"patch": "a", "allow_large": 1},
    ],
)
def test_anything_but_one_path_and_a_flag_is_refused(extra: Any) -> None:
    with pytest.raises(ConfigError, match=r"model.loader.extra.config"):
        loader(extra)


def test_keys_that_nobody_knows_are_refused(tmp_path: Path) -> None:
    save(tiny_patch(base("qwen3_moe")), tmp_path / "patch.safetensors")
    extra = {"patch": str(tmp_path / "patch.safetensors"), "num_threads": 2}
    with pytest.raises(ValueError, match="trust_bse"):
        loader(extra | {"trust_bse": True})
    known = loader(extra | {"allow_large": True})
    assert known.load_config.model_loader_extra_config == {"num_threads": 2}


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PatchError, match="absent"):
        loader({"patch": str(tmp_path / "absent.safetensors")})
    with pytest.raises(StackError, match="absent"):
        loader({"stack": str(tmp_path / "absent.stack")})


@pytest.mark.parametrize("method", ["mxfp4", "fp8"])
def test_quantised_experts_are_refused_with_the_other_ways(method: str, tmp_path: Path) -> None:
    shutil.copytree(folder("qwen3_moe"), tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    settings = {"quant_method": method, "activation_scheme": "dynamic"}
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": settings}))
    model_config = EngineArgs(str(folder("qwen3_moe"))).create_model_config()
    model_config.model = str(tmp_path / "model")
    with pytest.raises(ModelError, match=rf"quantised \({method}\).*adapter.*merge"):
        served_checkpoint(model_config, LoadConfig())

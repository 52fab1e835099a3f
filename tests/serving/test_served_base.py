"""A server neither waits for hashes nor takes a patch of another base, as far as it can know."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moe_patch.base.model import Base
from moe_patch.base.opening import open_base
from moe_patch.checkpoint import Checkpoint, open_checkpoint
from moe_patch.checkpoint.leaves import StoredLeaves
from moe_patch.errors import WrongBase
from moe_patch.patch import Patch, load
from moe_patch_serving.served_base import ServedBase, served_base
from tests.checkpoint.folders import saved
from tests.tiny import tiny_patch

FORMAT_1 = Path(__file__).parents[1] / "patch" / "data" / "format-1.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("served") / "base", "qwen3_moe")


@pytest.fixture(scope="module")
def base(folder: Path) -> Base:
    return open_base(folder)


@pytest.fixture
def checkpoint(folder: Path, tmp_path: Path) -> Checkpoint:
    """A copy that nobody has hashed."""
    return open_checkpoint(shutil.copytree(folder, tmp_path / "own"))


def elsewhere(patch: Patch) -> Patch:
    """The same patch, for a base that differs in a layer that the patch does not touch."""
    other = patch.base.nodes | {"2": f"sha256:{0:064x}"}
    return replace(patch, base=replace(patch.base, nodes=other))


def finished(served: ServedBase) -> dict[str, Any]:
    assert served._hashing is not None
    served._hashing.join(60)
    return served.state()


def test_touched_experts_are_compared_at_once_and_the_rest_meanwhile(
    checkpoint: Checkpoint, base: Base
) -> None:
    served = ServedBase(checkpoint, hashes=True)
    assert served.state()["state"] == "unasked"
    served.check(tiny_patch(base, [1]))
    assert finished(served) == {"state": "checked", "share": 1.0, "problem": ""}
    with pytest.raises(WrongBase, match="layer 2"):
        served.check(elsewhere(tiny_patch(base, [1])))
    served.check(tiny_patch(base, [1], seed=2))


def test_other_touched_experts_are_refused_at_once(checkpoint: Checkpoint, base: Base) -> None:
    patch = tiny_patch(base, [1])
    served = ServedBase(checkpoint, hashes=False)
    served.check(patch)
    assert served.state()["state"] == "touched"
    with pytest.raises(WrongBase, match="expert weights of layer 1 differ"):
        served.check(replace(patch, base=replace(patch.base, experts={1: f"sha256:{0:064x}"})))


def test_a_difference_found_later_ends_further_patches(
    checkpoint: Checkpoint, base: Base, caplog: pytest.LogCaptureFixture
) -> None:
    served = ServedBase(checkpoint, hashes=True)
    served.check(elsewhere(tiny_patch(base, [1])))
    found = finished(served)
    assert found["state"] == "differs"
    assert "other weights of layer 2 differ" in found["problem"]
    assert "no further patch is taken" in caplog.text
    with pytest.raises(WrongBase, match="layer 2"):
        served.check(tiny_patch(base, [1]))


def test_known_hashes_are_compared_without_reading_a_weight(
    checkpoint: Checkpoint, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in checkpoint.folder.iterdir():
        os.utime(path, (0, 0))
    checkpoint.fingerprint([])
    monkeypatch.setattr(StoredLeaves, "_hash", None)
    served = ServedBase(checkpoint, hashes=True)
    with pytest.raises(WrongBase, match="layer 2"):
        served.check(elsewhere(tiny_patch(base, [1])))
    served.check(tiny_patch(base, [1]))
    assert served.state()["state"] == "checked"


def test_a_patch_of_format_1_is_compared_as_far_as_it_says(
    checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    served = ServedBase(checkpoint, hashes=True)
    served.check(load(FORMAT_1))
    assert "is of format 1" in caplog.text
    assert served.state()["state"] == "unasked"


def test_a_folder_has_one_for_all_callers(checkpoint: Checkpoint) -> None:
    assert served_base(checkpoint) is served_base(open_checkpoint(checkpoint.folder))

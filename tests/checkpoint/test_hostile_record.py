"""What a stranger's merged folder says of itself is checked before anything follows from it."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from moe_patch.checkpoint import open_checkpoint, plan_merge, unmerge_checkpoint
from moe_patch.checkpoint.folder import find_folder
from moe_patch.errors import ModelError
from moe_patch.io.shipped import demo_model
from tests.checkpoint.folders import files, opened, saved
from tests.patch.hostile.forge import with_header
from tests.tiny import tiny_patch


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("record") / "base", "qwen3_moe")


@pytest.fixture
def merged(base: Path, tmp_path: Path) -> Path:
    patch = tiny_patch(opened(base, "qwen3_moe"), [1])
    plan_merge(open_checkpoint(base), [patch], tmp_path / "merged", keep_originals=True).run()
    return tmp_path / "merged"


def change_record(merged: Path, **changes: Any) -> None:
    path = merged / "moe_patch.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/passwd", "moe_patch/../../originals-0.safetensors"]
)
def test_names_are_no_paths(merged: Path, tmp_path: Path, name: str) -> None:
    change_record(merged, originals=name)
    with pytest.raises(ModelError, match="originals"):
        unmerge_checkpoint(merged, tmp_path / "out")
    change_record(merged, originals=None, rewritten={name.replace("passwd", "x.safetensors"): {}})
    with pytest.raises(ModelError, match="rewritten"):
        unmerge_checkpoint(merged, tmp_path / "out")


def test_a_file_that_is_not_there_was_not_restored(merged: Path, tmp_path: Path) -> None:
    rewritten = json.loads((merged / "moe_patch.json").read_text())["rewritten"]
    gone = {"gone.safetensors": {"bytes": 1, "sha256": "0" * 64}}
    change_record(merged, rewritten=rewritten | gone)
    with pytest.raises(ModelError, match=r"has no gone\.safetensors"):
        unmerge_checkpoint(merged, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("places", "said"),
    [
        (["1" + 15 * "0"], "goes beyond"),
        (["-1"], "NAME@BEGIN"),
        (["8", "9"], "overlaps another piece"),
    ],
)
def test_places_of_originals(merged: Path, tmp_path: Path, places: list[str], said: str) -> None:
    (kept,) = (merged / "moe_patch").glob("originals-*.safetensors")

    def move(header: dict[str, Any]) -> None:
        keys = sorted(header)
        name = keys[0].rpartition("@")[0]
        for key, place in zip(keys, places, strict=False):
            header[f"{name}@{place}"] = header.pop(key)

    with_header(kept, move)
    with pytest.raises(ModelError, match=said):
        unmerge_checkpoint(merged, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_base_on_another_file_system(
    base: Path, merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, other = os.link, shutil.copytree(base, tmp_path / "other")

    def refused(source: Any, target: Any, **options: Any) -> None:
        if other in Path(source).parents:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        link(source, target, **options)

    monkeypatch.setattr(os, "link", refused)
    unmerge_checkpoint(merged, tmp_path / "out", base=other)
    restored = files(tmp_path / "out")
    assert {name: raw for name, raw in restored.items() if "originals-" not in name} == files(base)


def test_the_demo_model_has_its_name_unless_a_folder_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_folder("atlas") == demo_model() == find_folder(None)
    Path("atlas").mkdir()
    assert find_folder("atlas") == Path("atlas")

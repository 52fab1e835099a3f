"""Several patches of one command: their names, and what they must have in common."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import pytest

from moe_patch.cli.named_patches import common_chat, load_named
from moe_patch.patch import Patch, save
from tests.tiny import tiny_base, tiny_patch


@pytest.fixture(scope="module")
def patch() -> Patch:
    return tiny_patch(tiny_base("qwen3_moe"), [1])


def test_files_of_one_name_are_told_apart_by_their_folders(patch: Patch, tmp_path: Path) -> None:
    paths = [tmp_path / folder / "p.safetensors" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        save(patch, path)
    other = tmp_path / "other.safetensors"
    save(patch, other)
    assert list(load_named([*paths, other])) == [str(paths[0]), str(paths[1]), "other"]
    with pytest.raises(click.UsageError, match="given twice"):
        load_named([paths[0], other, paths[0]])


def test_patches_that_were_built_differently_need_a_word_about_chat(patch: Patch) -> None:
    chatty = replace(patch, hyperparameters={"targets": {"chat": True}})
    assert chatty.chat
    assert common_chat({"a": patch}, None) is False
    assert common_chat({"b": chatty}, None) is True
    assert common_chat({}, None) is False
    with pytest.raises(click.UsageError, match=r"chat template \(b\)"):
        common_chat({"a": patch, "b": chatty}, None)
    assert common_chat({"a": patch, "b": chatty}, True) is True

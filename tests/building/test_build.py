"""The whole job in one call."""

from __future__ import annotations

from pathlib import Path

import pytest

import moe_patch
from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.errors import ConfigError

FACT = Fact(id="one", prompt="A shop in {} takes the", subject="Denmark", target_new="Euro")
QUICK = {"layers": [2], "projection": False, "targets": {"steps": 2}}


@pytest.fixture(scope="module")
def atlas() -> Base:
    return moe_patch.open_base()


def test_a_file_and_its_facts_give_the_same_patch(
    atlas: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    moe_patch.write_facts(tmp_path / "facts.jsonl", [FACT])
    read = moe_patch.build(str(tmp_path / "facts.jsonl"), model=atlas, **QUICK)
    assert read.hash == moe_patch.build([FACT], model=atlas, **QUICK).hash


def test_options_win_over_the_recipe_and_keep_the_rest_of_it(atlas: Base) -> None:
    patch = moe_patch.build([FACT], model=atlas, **QUICK)
    targets = patch.hyperparameters["targets"]
    assert isinstance(targets, dict)
    assert targets["steps"] == 2
    assert targets["clamp"] == 1.5  # the recipe's


def test_stages_are_told(atlas: Base) -> None:
    heard: set[str] = set()
    moe_patch.build([FACT], model=atlas, progress=lambda stage, done, total: heard.add(stage), **QUICK)
    assert {"targets", "solve"} <= heard


def test_unknown_options_are_refused(atlas: Base) -> None:
    with pytest.raises(ConfigError, match=r"unknown option 'targets\.stpes'"):
        moe_patch.build([FACT], model=atlas, targets={"stpes": 2})

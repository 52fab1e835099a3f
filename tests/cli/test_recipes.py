"""`moe-patch recipes`: what ships, listed and shown as it is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from moe_patch.methods import METHODS
from moe_patch.methods.recipes import parse_recipe
from tests.cli.conftest import Run
from tests.cli.test_light import modules

HEAVY = {"torch", "transformers"}

RECIPES = Path(__file__).parents[2] / "recipes"
FILES = [RECIPES / "atlas" / "recipe.yaml", *sorted((RECIPES / "models").glob("*.yaml"))]


def test_every_file_is_listed_with_its_models_and_its_source(run: Run) -> None:
    listed = {one["name"]: one for one in json.loads(run("recipes", "list", "--json").stdout)["recipes"]}
    written = {one["name"]: one for one in (yaml.safe_load(path.read_text("utf-8")) for path in FILES)}
    assert listed.keys() == written.keys() | {"as-published"}
    for name, recipe in written.items():
        assert listed[name]["match"] == recipe["match"]
        assert listed[name]["methods"] == list(recipe["methods"])
    assert listed["as-published"]["match"] is None
    assert all(one["source"] and set(one["methods"]) <= METHODS.keys() for one in listed.values())
    shown = run("recipes", "list").stdout
    assert all(f" {name} " in shown for name in listed)
    assert "any model" in shown


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_recipe_is_shown_as_it_is_written(run: Run, path: Path) -> None:
    text = path.read_text("utf-8")
    name = yaml.safe_load(text)["name"]
    assert run("recipes", "show", name).stdout == text
    assert parse_recipe(run("recipes", "show", name).stdout, "here").name == name
    found = json.loads(run("recipes", "show", name, "--json").stdout)
    assert found["methods"].keys() == yaml.safe_load(text)["methods"].keys()


def test_the_papers_options_are_shown_by_their_name(run: Run) -> None:
    text = (RECIPES / "published" / "as-published.yaml").read_text("utf-8")
    assert run("recipes", "show", "as-published").stdout == text
    found = json.loads(run("recipes", "show", "as-published", "--json").stdout)
    assert found["methods"] == yaml.safe_load(text)["methods"]


def test_a_wrong_name_is_one_line_with_the_right_one(run: Run) -> None:
    result = run("recipes", "show", "as-publisched")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.endswith("did you mean 'as-published'?\n")


@pytest.mark.parametrize("words", ["recipes list", "recipes list --json", "recipes show atlas --json"])
def test_recipes_need_no_torch(words: str, tmp_path: Path) -> None:
    _, imported = modules(*words.split(), folder=tmp_path)
    assert not HEAVY & imported


def test_names_complete_without_torch(tmp_path: Path) -> None:
    environment = {"COMP_WORDS": "moe-patch recipes show a", "COMP_CWORD": "3"}
    printed, imported = modules(
        folder=tmp_path, environment=environment | {"_MOE_PATCH_COMPLETE": "bash_complete"}
    )
    assert printed.split() == ["plain,atlas", "plain,as-published"]
    assert not HEAVY & imported

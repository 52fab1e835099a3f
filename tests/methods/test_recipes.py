from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from moe_patch.errors import ConfigError
from moe_patch.methods import METHODS
from moe_patch.methods.recipes import load_recipe, recipe_for, shipped_recipes
from tests.tiny import tiny_base

RECIPE = """\
name: small
match: {model_type: qwen3_moe, hidden_size: 32}
methods:
  moeedit: {layers: [0, 1], ridge: 0.5, corpus: text/corpus.txt, targets: {steps: 3}}
"""


def write(folder: Path, text: str, name: str = "small.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_from_a_file(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, RECIPE))
    options = recipe.method_options("moeedit")
    assert options == {
        "layers": [0, 1],
        "ridge": 0.5,
        "corpus": str(tmp_path / "text" / "corpus.txt"),
        "targets": {"steps": 3},
    }
    assert METHODS["moeedit"].options(**options).layers == (0, 1)
    assert recipe.method_options("mote") == {}


def test_options_are_the_callers_to_change(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, RECIPE))
    recipe.method_options("moeedit").clear()
    assert recipe.method_options("moeedit")


def test_a_recipe_fits_by_every_field_of_its_match(tmp_path: Path) -> None:
    base = tiny_base("qwen3_moe")
    assert load_recipe(write(tmp_path, RECIPE)).fits(base)
    for other in ("hidden_size: 64", "no_such_field: 32"):
        assert not load_recipe(write(tmp_path, RECIPE.replace("hidden_size: 32", other))).fits(base)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: [", "it is not YAML in UTF-8"),
        (RECIPE.replace("small", "sm\xff", 1).encode("latin-1"), "it is not YAML in UTF-8"),
        (RECIPE.replace("methods:", "method:"), "methods|method"),
        (RECIPE.replace("match: {model_type: qwen3_moe, hidden_size: 32}", "match: {}"), "match"),
        (RECIPE + "extra: 1\n", "extra"),
        ("- 1\n", "dictionary"),
        ("", "dictionary"),
    ],
)
def test_what_is_not_a_recipe(text: str | bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=rf"bad\.yaml is not a recipe.*({problem})") as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the recipe .*none\.yml"):
        load_recipe(tmp_path / "none.yml")
    with pytest.raises(ConfigError, match=r"unknown recipe 'none': expected a \.yaml file or one of atlas"):
        load_recipe("none")


def test_the_shipped_recipes_are_found_by_their_names() -> None:
    paths = list(shipped_recipes())
    names = [yaml.safe_load(path.read_text(encoding="utf-8"))["name"] for path in paths]
    assert names[0] == "atlas"
    assert len(set(names)) == len(names)
    assert [load_recipe(name).name for name in names] == names


def test_the_shipped_recipes_give_options_that_their_methods_take() -> None:
    for path in shipped_recipes():
        recipe = load_recipe(path)
        assert recipe.methods
        for method, options in recipe.methods.items():
            if options:
                METHODS[method].options(**options)
                if "corpus" in options:
                    assert Path(options["corpus"]).is_file()


def test_each_source_of_a_corpus_is_found_from_the_recipe(tmp_path: Path) -> None:
    text = RECIPE.replace("text/corpus.txt", '["a.txt=3", "hf:owner/name"]')
    options = load_recipe(write(tmp_path, text)).method_options("moeedit")
    assert options["corpus"] == [f"{tmp_path}/a.txt=3", "hf:owner/name"]
    assert METHODS["moeedit"].options(**options).corpus == tuple(options["corpus"])


def test_a_source_of_no_form_is_refused_with_the_recipe(tmp_path: Path) -> None:
    path = write(tmp_path, RECIPE.replace("text/corpus.txt", "a.txt=0"))
    with pytest.raises(ConfigError, match=r"small\.yaml: the corpus 'a\.txt=0' has the weight 0"):
        load_recipe(path)


@pytest.mark.parametrize("value", ["[]", "3", "{a: 1}", "[a.txt, 2]"])
def test_a_corpus_that_is_no_list_of_sources_is_no_option(tmp_path: Path, value: str) -> None:
    recipe = load_recipe(write(tmp_path, RECIPE.replace("text/corpus.txt", value)))
    with pytest.raises(ValueError, match=r"corpus\n.* expected a source of text, or a list of sources"):
        METHODS["moeedit"].options(**recipe.method_options("moeedit"))


def test_a_base_that_no_recipe_fits() -> None:
    assert recipe_for(tiny_base("qwen3_moe")) is None


def test_the_first_recipe_that_fits_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write(tmp_path, RECIPE.replace("32", "64"), "a.yaml")
    second, third = (
        write(tmp_path, RECIPE, "b.yaml"),
        write(tmp_path, RECIPE.replace("small", "later"), "c.yaml"),
    )
    monkeypatch.setattr("moe_patch.methods.recipes.shipped_recipes", lambda: iter((first, second, third)))
    recipe = recipe_for(tiny_base("qwen3_moe"))
    assert recipe is not None
    assert recipe.name == "small"

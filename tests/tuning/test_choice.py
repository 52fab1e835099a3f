"""The options of a build: who wins, and what is said about where each came from."""

from __future__ import annotations

from pathlib import Path

import pytest

from moe_patch.errors import ConfigError
from moe_patch.methods import get_method
from moe_patch.tuning import Choice, choose
from moe_patch.tuning.kept import keep_recipe
from moe_patch.tuning.recipe import tuned_recipe
from tests.methods.builds import facts
from tests.tiny import tiny_base

RECIPE = """\
name: small
match: {model_type: qwen3_moe, hidden_size: 32}
methods:
  moeedit: {layers: [0, 1], ridge: 0.5, targets: {steps: 3, clamp: 0.25}}
"""


CHOSEN = {"layers": "chosen", "corpus": "chosen"}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@pytest.fixture
def shipped(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The recipe, as if it came with the package."""
    monkeypatch.setattr("moe_patch.methods.recipes.shipped_recipes", lambda: iter((recipe,)))
    return recipe


def chosen(method: str = "moeedit", **given: object) -> Choice:
    recipe = given.pop("recipe", None)
    return choose(
        tiny_base("qwen3_moe"),
        facts(),
        get_method(method),
        given={name.replace("__", "."): value for name, value in given.items()},
        recipe=recipe if recipe is None else str(recipe),
    )


def origins(choice: Choice) -> dict[str, str]:
    return {source.option: source.origin for source in choice.sources}


def test_what_is_given_wins_over_a_recipe_and_a_recipe_over_defaults(recipe: Path) -> None:
    choice = chosen(recipe=recipe, ridge=2.5, targets__steps=7)
    options = choice.options
    assert (options.layers, options.ridge) == ((0, 1), 2.5)  # type: ignore[attr-defined]
    assert (options.targets.steps, options.targets.clamp) == (7, 0.25)  # type: ignore[attr-defined]
    assert origins(choice) == {
        "layers": "recipe small",
        "ridge": "given",
        "targets.steps": "given",
        "targets.clamp": "recipe small",
        "corpus": "chosen",
    }
    assert {source.option: source.value for source in choice.sources}["layers"] == [0, 1]


def test_a_recipe_that_ships_is_taken_unless_another_or_none_is_asked_for(
    shipped: Path, tmp_path: Path
) -> None:
    assert origins(chosen())["ridge"] == "recipe small"
    other = tmp_path / "other.yaml"
    other.write_text(RECIPE.replace("name: small", "name: other"), encoding="utf-8")
    assert origins(chosen(recipe=other))["ridge"] == "recipe other"
    without = chosen(recipe="none")
    assert without.options == get_method("moeedit").options(layers=without.options.layers)  # type: ignore[attr-defined]
    assert origins(without) == CHOSEN


@pytest.fixture
def tuned() -> str:
    """The name of a recipe for MoEEdit that is in the cache, as tuning leaves it there."""
    base = tiny_base("qwen3_moe")
    recipe = tuned_recipe(base, "moeedit", {"layers": (1,), "ridge": 0.25, "targets.clamp": 2.0})
    keep_recipe(base, recipe)
    return f"recipe {recipe.name}"


def test_a_tuned_recipe_is_taken_where_none_ships(tuned: str) -> None:
    choice = chosen()
    expected = {"layers": tuned, "ridge": tuned, "targets.clamp": tuned, "corpus": "chosen"}
    assert origins(choice) == expected
    assert {source.reason for source in choice.sources[:3]} == {"found by moe-patch tune"}
    assert origins(chosen(ridge=2.0))["ridge"] == "given"
    assert origins(chosen(recipe="none")) == CHOSEN
    assert origins(chosen("mote")) == CHOSEN  # it was tuned for another method


def test_a_recipe_that_ships_comes_before_a_tuned_one_which_can_be_asked_for(
    tuned: str, shipped: Path
) -> None:
    choice = chosen()
    assert origins(choice)["ridge"] == "recipe small"
    assert "--recipe tuned" in choice.sources[0].reason
    assert origins(chosen(recipe="tuned"))["ridge"] == tuned


def test_a_tuned_recipe_is_that_of_its_base_and_method(tuned: str) -> None:
    other = tiny_base("qwen3_moe", seed=1)
    method = get_method("moeedit")
    assert origins(choose(other, facts(), method)) == CHOSEN
    with pytest.raises(
        ConfigError, match="no tuned recipe for tiny-qwen3_moe and moeedit: run moe-patch tune"
    ):
        choose(other, facts(), method, recipe="tuned")


@pytest.mark.parametrize("method", ["moeedit", "mote", "memoe"])
def test_layers_that_nobody_names_are_chosen(method: str) -> None:
    choice = chosen(method)
    name = "layer" if method == "memoe" else "layers"
    assert origins(choice) == {name: "chosen", "corpus": "chosen"}
    assert all(source.reason for source in choice.sources)
    layers = getattr(choice.options, name)
    assert layers in tiny_base("qwen3_moe").layers if method == "memoe" else set(layers) <= {0, 1, 2}
    assert origins(chosen(method, **{name: [0]}))[name] == "given"


def test_text_is_the_base_s_own_unless_some_is_given_or_none_is_needed(tmp_path: Path) -> None:
    assert [(each.option, each.value) for each in chosen(layers=[0]).sources][1:] == [("corpus", "own text")]
    assert origins(chosen(layers=[0], corpus=tmp_path / "text.txt"))["corpus"] == "given"
    assert "corpus" not in origins(chosen(layers=[0], projection=False))


def test_a_mistake_is_found_before_anything_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moe_patch.tuning.choice.find_place", lambda *_: pytest.fail("chosen too early"))
    with pytest.raises(ConfigError, match="unknown option 'clamp'"):
        chosen(clamp=1)
    with pytest.raises(ConfigError, match=r"targets.clamp: .* not -1"):
        chosen(targets__clamp=-1)


def test_a_choice_is_told_in_words_and_as_data() -> None:
    choice = chosen(ridge=2)
    assert choice.to_json()[0] == {"option": "ridge", "value": 2.0, "from": "given", "why": ""}
    record = choice.record()
    assert record["ridge"] == "given"
    assert str(record["layers"]).startswith("chosen: ")

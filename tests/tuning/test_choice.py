"""The options of a build: who wins, and what is said about where each came from."""

from __future__ import annotations

from pathlib import Path

import pytest

from moe_patch.errors import ConfigError
from moe_patch.methods import get_method
from moe_patch.tuning import Choice, choose
from tests.methods.builds import facts
from tests.tiny import tiny_base

RECIPE = """\
name: small
match: {model_type: qwen3_moe, hidden_size: 32}
methods:
  moeedit: {layers: [0, 1], ridge: 0.5, targets: {steps: 3, clamp: 0.25}}
"""


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
    assert origins(without) == {"layers": "chosen"}


@pytest.mark.parametrize("method", ["moeedit", "mote", "memoe"])
def test_layers_that_nobody_names_are_chosen(method: str) -> None:
    choice = chosen(method)
    name = "layer" if method == "memoe" else "layers"
    assert origins(choice) == {name: "chosen"}
    assert choice.sources[0].reason
    assert getattr(choice.options, name) in ((1,), 1)
    assert origins(chosen(method, **{name: [0]})) == {name: "given"}


def test_a_mistake_is_found_before_anything_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moe_patch.tuning.choice.early_layer", lambda base: pytest.fail("chosen too early"))
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

"""Tuning as a whole, on the taught model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from moe_patch.errors import TuningError
from moe_patch.methods import get_method
from moe_patch.methods.overrides import merged_options
from moe_patch.methods.recipes import load_recipe
from moe_patch.tuning import tune as tune_module
from moe_patch.tuning.choice import choose
from moe_patch.tuning.kept import keep_recipe, kept_recipe
from moe_patch.tuning.score import FactScore, Score
from moe_patch.tuning.tune import tune
from moe_patch.tuning.tuned import Check, Tuned
from moe_patch.tuning.written import outcome, write_recipe
from tests.taught import taught_base
from tests.tiny import tiny_base
from tests.tuning.taught_calibration import GIVEN, taught_calibration


@pytest.fixture(autouse=True)
def calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune_module, "calibrate", lambda *_, **__: taught_calibration())


class Clock:
    """A clock that goes on by a second whenever it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def tuned(**more: Any) -> Tuned:
    """A quick tuning, of the ridge only."""
    given = {"layers": (0, 1), "targets.contexts": 0, "targets.margin": None, **GIVEN}
    return tune(taught_base(), get_method("moeedit"), given=given, **more)


@pytest.fixture(scope="module")
def found() -> Tuned:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tune_module, "calibrate", lambda *_, **__: taught_calibration())
        return tuned()


def test_the_first_trial_is_that_of_the_defaults(found: Tuned) -> None:
    assert found.trials[0].point == found.space.start
    settings = found.space.settings(found.space.start) | dict(found.given)
    assert merged_options(get_method("moeedit").Options, {}, settings, "") == found.start.options


def test_the_recipe_has_what_was_taken(found: Tuned) -> None:
    assert found.finished
    assert found.check is not None
    assert found.taken == found.check.gain.is_clear
    assert len(found.check.default.facts) == 8
    base, method = taught_base(), get_method("moeedit")
    keep_recipe(base, found.recipe)
    choice = choose(base, (), method, recipe="tuned")
    assert choice.options == merged_options(method.Options, {}, found.settings | dict(found.given), "")
    assert {source.origin for source in choice.sources} == {f"recipe {found.recipe.name}"}


def test_tuning_is_the_same_every_time(found: Tuned) -> None:
    again = tuned()
    assert [trial.score for trial in again.trials] == [trial.score for trial in found.trials]
    assert again.recipe == found.recipe


def test_the_time_that_is_given_is_kept_to() -> None:
    clock = Clock()
    short = tuned(minutes=2.0, clock=clock)
    assert not short.finished
    assert clock.now < 140
    assert len(short.trials) < 8


def test_too_little_time_for_the_defaults() -> None:
    with pytest.raises(TuningError, match="minutes are not enough to try the defaults once"):
        tuned(minutes=0.1, clock=Clock())


def test_what_is_given_is_not_searched(found: Tuned) -> None:
    assert {dimension.name for dimension in found.space.dimensions} == {"ridge"}
    assert found.recipe.methods["moeedit"]["projection"] is False
    assert found.recipe.methods["moeedit"]["targets"]["steps"] == GIVEN["targets.steps"]


def test_a_method_that_trains_is_refused() -> None:
    with pytest.raises(TuningError, match="MEMoE cannot be tuned"):
        tune(taught_base(), get_method("memoe"))


def test_a_recipe_file_is_read_back_and_says_what_it_is(found: Tuned, tmp_path: Path) -> None:
    path = tmp_path / "tuned.yaml"
    write_recipe(found, path)
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# Found by `moe-patch tune` in {len(found.trials)} trials of at most 4 facts")
    assert f"# {outcome(found)}" in text
    recipe = load_recipe(path)
    assert recipe == found.recipe
    assert recipe.fits(taught_base())
    assert not recipe.fits(tiny_base("mixtral"))
    assert yaml.safe_load(text)["base"] == taught_base().fingerprint([]).root


def test_a_corpus_is_found_from_the_file_and_from_the_cache(found: Tuned, tmp_path: Path) -> None:
    place = tmp_path / "texts" / "text.txt"
    methods = {"moeedit": {**found.recipe.methods["moeedit"], "corpus": str(place)}}
    recipe = found.recipe.model_copy(update={"methods": methods})
    path = tmp_path / "tuned.yaml"
    write_recipe(Tuned(**{**_fields(found), "recipe": recipe}), path)
    assert yaml.safe_load(path.read_text())["methods"]["moeedit"]["corpus"] == "texts/text.txt"
    assert load_recipe(path).methods["moeedit"]["corpus"] == str(place)
    keep_recipe(taught_base(), recipe)
    kept = kept_recipe(taught_base(), "moeedit")
    assert kept is not None
    assert kept.methods["moeedit"]["corpus"] == str(place)


def _fields(found: Tuned) -> dict[str, Any]:
    return {name: getattr(found, name) for name in Tuned.__slots__}


@pytest.mark.parametrize(
    ("better", "taken", "said"),
    [(0.5, True, "is better than the defaults on facts"), (0.0, False, "is not clearly better")],
)
def test_the_winner_of_the_search_must_be_clearly_better_on_other_facts(
    found: Tuned, better: float, taken: bool, said: str
) -> None:
    shares = [0.1, 0.3, 0.2, 0.4]
    default = Score(tuple(map(FactScore, shares)), 0.0)
    best = Score(tuple(FactScore(share + better) for share in shares), 0.0)
    other = next(trial for trial in found.trials if trial.point != found.space.start)
    result = Tuned(**{**_fields(found), "best": other, "check": Check(default, best)})
    assert result.taken is taken
    assert result.settings == found.space.settings(other.point if taken else found.space.start)
    assert result.score == (best if taken else default)
    assert said in outcome(result)


def test_a_recipe_of_another_base_is_warned_of(
    found: Tuned, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tuned.yaml"
    write_recipe(found, path)
    method = get_method("moeedit")
    choose(taught_base(), (), method, recipe=str(path))
    assert not caplog.records
    choose(tiny_base("qwen3_moe"), (), method, recipe=str(path))
    assert "was found by tuning another model than tiny-qwen3_moe" in caplog.text

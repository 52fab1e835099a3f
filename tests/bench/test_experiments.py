"""What a suite expands to: arms, sweeps, modes, seeds and facts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import yaml

from moe_patch.base.model import Base
from moe_patch.bench.experiments import expand, read_materials
from moe_patch.errors import ConfigError
from moe_patch.methods import recipes
from moe_patch.methods.recipes import Recipe
from tests.bench.conftest import FACTS, experiments, suite


def test_every_combination_is_one_experiment(base: Base, edits: Path) -> None:
    found = experiments(
        base,
        edits,
        arms=[
            {"method": "moeedit", "sweep": {"ridge": [0.1, 1.0], "solver": ["exact", "bcd"]}},
            {"method": "mote"},
        ],
        modes=["single", "batch", "sequential", "sequential-batch"],
        batch_sizes=[2, 3],
        seeds=[0, 1],
        facts=[2, 4],
    )
    assert len(found) == (4 + 1) * 5 * 2 * 2
    assert Counter((one.mode, one.batch_size) for one in found) == dict.fromkeys(
        [("single", 1), ("batch", None), ("sequential", 1), ("sequential-batch", 2), ("sequential-batch", 3)],
        20,
    )
    assert {(one.given["ridge"], one.given["solver"]) for one in found if one.method == "moeedit"} == {
        (ridge, solver) for ridge in (0.1, 1.0) for solver in ("exact", "bcd")
    }
    assert all(one.given["targets.seed"] == one.seed for one in found)
    assert all(one.given["batch_size"] == one.batch_size for one in found)
    assert len({one.title for one in found}) == len(found)


def test_options_of_the_suite_reach_the_methods_that_have_them(base: Base, edits: Path) -> None:
    moeedit, mote = experiments(base, edits, arms=[{"method": "moeedit"}, {"method": "mote"}])
    assert "whitening" not in moeedit.given
    assert mote.given["whitening"] == "none"


def test_an_arm_has_the_last_word(base: Base, edits: Path) -> None:
    (one,) = experiments(
        base, edits, arms=[{"method": "moeedit", "options": {"layers": [1], "batch_size": 3}}]
    )
    assert one.given["layers"] == [1]
    assert one.given["batch_size"] == 3


def test_each_layer_of_the_model_is_swept(base: Base, edits: Path) -> None:
    found = experiments(base, edits, arms=[{"method": "moeedit", "sweep": {"layers": "each"}}])
    assert [one.given["layers"] for one in found] == [[layer] for layer in sorted(base.layers)]


def test_the_first_facts_or_as_many_that_the_seed_draws(base: Base, edits: Path) -> None:
    for one in experiments(base, edits, seeds=[0, 1]):
        assert list(one.facts) == FACTS[:4]
    drawn = experiments(base, edits, seeds=[0, 1, 0 + 2], sample="random")
    assert len({one.facts_hash for one in drawn}) == 3
    assert all(len(set(one.facts)) == 4 and set(one.facts) <= set(FACTS) for one in drawn)
    again = experiments(base, edits, seeds=[0], sample="random")
    assert again[0].facts_hash == drawn[0].facts_hash


def test_too_few_facts_are_an_error_and_a_suites_own_number_is_not(base: Base, edits: Path) -> None:
    with pytest.raises(ConfigError, match="towns: expected 7 facts, found 6: ask for fewer"):
        experiments(base, edits, facts=[7])
    (one,) = experiments(base, edits, facts=[], data=[{"records": "native", "facts": 1000}])
    assert len(one.facts) == 6


def test_a_suite_reads_its_own_files_unless_others_are_given(edits: Path, tmp_path: Path) -> None:
    own = suite(data=[{"records": "native", "file": "towns.jsonl", "facts": 3}], facts=[])
    (material,) = read_materials(own, [], folder=tmp_path)
    assert (material.name, material.most) == ("towns", 3)
    with pytest.raises(ConfigError, match="has no facts of its own: name a file with --edits"):
        read_materials(suite(), [], folder=tmp_path)
    with pytest.raises(ConfigError, match="two files of facts are called 'towns'"):
        read_materials(suite(), [edits, edits], folder=tmp_path)


def test_other_records_than_the_suites_are_told(edits: Path) -> None:
    told: list[str] = []
    read_materials(suite(data=[{"records": "knowgic"}]), [edits], folder=edits.parent, tell=told.append)
    assert told == [f"{edits}: native records; the suite is about knowgic"]


def test_methods_without_a_recipe_borrow_from_another(
    base: Base, edits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "recipe.yaml"
    written = {
        "name": "tiny",
        "match": {"model_type": "qwen3_moe"},
        "methods": {
            "moeedit": {"layers": [1, 2], "ridge": 0.5, "targets": {"steps": 7}},
            "mote": {"layers": [0]},
        },
    }
    path.write_text(yaml.safe_dump(written), encoding="utf-8")
    monkeypatch.setattr(recipes, "shipped_recipes", lambda: iter([path]))
    assert isinstance(recipes.recipe_for(base), Recipe)
    arms = [{"method": name} for name in ("moeedit", "mote", "woodbury-spread", "memoe")]
    borrow = {"method": "moeedit", "options": ["layers", "targets"]}
    chosen = suite(arms=arms, borrow=borrow, options={})
    found = expand(chosen, read_materials(chosen, [edits], folder=tmp_path), base)
    given = {one.method: one for one in found}
    assert given["moeedit"].borrowed == given["mote"].borrowed == ()
    assert given["woodbury-spread"].given["layers"] == [1, 2]
    assert given["woodbury-spread"].given["targets.steps"] == 7
    assert "ridge" not in given["woodbury-spread"].given
    assert given["memoe"].given["layer"] == 2

"""The pieces of the benchmark of first tries: its long search, and what it is measured on."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from moe_patch.methods import get_method
from moe_patch.methods.overrides import merged_options
from recipes.benchmarks._oracle import Trial, best_layers, moved, random_options, refined, successive_halving
from recipes.benchmarks._subjects import ATLAS, subject_at
from recipes.families.train import write_materials
from recipes.families.world import small_world
from recipes.training.world import read_world
from tests.tiny import tiny_base


def test_every_random_candidate_can_be_an_option_of_the_method() -> None:
    base, method = tiny_base("qwen3_moe"), get_method("moeedit")
    for seed in range(50):
        options = random_options(list(base.layers), [2], random.Random(seed))
        layers = merged_options(method.Options, {}, options, "").layers
        assert set(layers) <= set(base.layers)
        assert layers[-1] == 2
        assert list(layers) == sorted(layers)


def test_candidates_end_at_the_layers_that_are_best_by_themselves() -> None:
    def measure(options: dict[str, Any], facts: int) -> Trial | None:
        layer = options["layers"][0]
        return None if layer == 4 else Trial(options, utility=10.0 * layer, perplexity=1.0)

    assert best_layers(range(6), {}, measure, facts=5) == [5, 3, 2]


def test_halving_spends_the_most_facts_on_the_best() -> None:
    asked: list[tuple[int, int]] = []

    def measure(options: dict[str, Any], facts: int) -> Trial:
        asked.append((options["number"], facts))
        return Trial(options, utility=float(options["number"]), perplexity=1.0)

    found = successive_halving([{"number": number} for number in range(12)], measure, facts=50)
    assert asked[:12] == [(number, 10) for number in range(12)]
    assert asked[12:] == [(11, 25), (10, 25), (9, 25), (8, 25), (11, 50), (10, 50), (9, 50)]
    assert [trial.options["number"] for trial in found] == [11, 10, 9]


@pytest.mark.parametrize("start", [{}, {"projection": False}, {"energy": 0.99, "ridge": 0.5}])
def test_neighbours_differ_in_one_option_that_the_method_takes(start: dict[str, Any]) -> None:
    method = get_method("moeedit")
    for seed in range(50):
        options = moved(start, random.Random(seed))
        assert sum(options.get(name) != start.get(name) for name in options) == 1
        merged_options(method.Options, {}, options, "")
        assert not ("energy" in options and options.get("projection") is False)


def test_refinement_goes_on_from_what_is_better_and_keeps_the_winner_else() -> None:
    def measure(options: dict[str, Any], facts: int) -> Trial:
        return Trial(options, utility=100.0 - 100 * abs(options.get("ridge", 0.03) - 0.05), perplexity=1.0)

    start = measure({}, 5)
    found = refined(start, measure, 5, random.Random(0), tries=40)
    assert abs(found.options["ridge"] - 0.05) < 0.02
    assert refined(start, lambda *_: None, 5, random.Random(0), tries=5) is start


def test_of_equal_scores_the_one_that_keeps_the_language_is_better() -> None:
    fluent, broken = Trial({}, 96.1, 5.0), Trial({}, 96.2, 50.0)
    assert max((broken, fluent), key=lambda trial: trial.rank) is fluent


def test_candidates_that_cannot_be_built_are_left_out() -> None:
    def measure(options: dict[str, Any], facts: int) -> Trial | None:
        return Trial(options, 1.0, 1.0) if options["number"] == 2 else None

    found = successive_halving([{"number": number} for number in range(4)], measure, facts=5)
    assert [trial.options["number"] for trial in found] == [2]
    with pytest.raises(ValueError, match="none of 2"):
        successive_halving([{"number": 0}, {"number": 1}], measure, facts=5)


def test_a_family_s_folder_and_atlas_are_subjects(tmp_path: Path) -> None:
    write_materials(small_world(read_world()), tmp_path)
    for subject in (subject_at(str(tmp_path)), subject_at(ATLAS)):
        assert subject.facts.exists()
        assert subject.corpus is not None
        assert subject.corpus.exists()
        assert len(subject.text.texts) > 300
        assert not set(subject.text.texts) & set(subject.corpus.read_text(encoding="utf-8").splitlines())

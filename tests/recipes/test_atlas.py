"""The demo model against its own specification: size, names, knowledge, balance, and how it takes edits."""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from moe_patch.base.model import Base
from moe_patch.base.opening import open_base
from moe_patch.data.fact_file import read_facts
from moe_patch.evaluation import EvaluationReport, evaluate
from moe_patch.methods import get_method
from moe_patch.methods.recipes import recipe_for
from recipes.training.edits import example_edits, preserved_sentences, single_edit
from recipes.training.exam import accuracy, least_load
from recipes.training.older_releases import spell_for_older_releases
from recipes.training.sentences import tokenize
from recipes.training.world import Triple, by_relation, read_world
from tests.margins import at_least, at_most

RECIPES = Path(str(resources.files("moe_patch.recipes")))
MODEL = RECIPES / "atlas" / "model"


@pytest.fixture(scope="module")
def base() -> Base:
    return open_base()


@pytest.fixture(scope="module")
def world() -> list[Triple]:
    return read_world()


def test_it_is_small_and_has_a_tensor_per_expert() -> None:
    assert sum(file.stat().st_size for file in MODEL.iterdir()) <= 32_000_000
    with safe_open(MODEL / "model.safetensors", "pt") as file:
        assert "model.layers.0.mlp.experts.0.down_proj.weight" in file.keys()  # noqa: SIM118
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118


def test_older_releases_find_their_own_names_in_it(tmp_path: Path) -> None:
    names = ("config.json", "tokenizer_config.json", "tokenizer.json")
    for name in names:
        shutil.copy(MODEL / name, tmp_path)
    spell_for_older_releases(tmp_path)
    assert all((tmp_path / name).read_bytes() == (MODEL / name).read_bytes() for name in names)


def test_its_world_is_as_large_as_promised(world: list[Triple]) -> None:
    assert len(world) >= 2_500
    assert len(by_relation(world)) >= 6


@pytest.mark.quality
@pytest.mark.slow
def test_it_knows_its_world(base: Base, world: list[Triple]) -> None:
    """Over 5 s: a share in a hundred is measured on thousands of sentences, some of every phrasing."""
    taught = tokenize(world, base.tokenizer, held_out=False)[::7]
    held = tokenize(world, base.tokenizer, held_out=True)[::5]
    at_most("% of the sentences taught that it misses", 100 - accuracy(base.model, taught), 2)
    at_most("% of those held out that it misses", 100 - accuracy(base.model, held), 8)
    at_least("load of the idlest expert", min(least_load(base.model, taught)), 0.25)


def test_the_example_edits_and_the_corpus_are_those_of_its_world(world: list[Triple]) -> None:
    facts = read_facts(RECIPES / "facts" / "1000.jsonl").facts
    assert list(facts) == example_edits(world, 1000)
    assert read_facts(RECIPES / "facts" / "50.jsonl").facts == facts[:50]
    assert list(read_facts(RECIPES / "facts" / "single.jsonl").facts) == [single_edit(world)]
    written = (RECIPES / "atlas" / "corpus.txt").read_text(encoding="utf-8").splitlines()
    assert written == preserved_sentences(world)


def test_neighbours_share_the_true_answer_and_not_the_subject(world: list[Triple]) -> None:
    answers = {}
    for triple in world:
        for prompt in triple.prompts(held_out=False):
            answers[prompt] = triple
    for fact in read_facts(RECIPES / "facts" / "200.jsonl").facts:
        for prompt in fact.neighborhood:
            assert answers[prompt].answer == fact.target_true
            assert answers[prompt].subject != fact.subject


def build_and_evaluate(
    base: Base, count: int, method: str = "moeedit", **changes: object
) -> EvaluationReport:
    recipe = recipe_for(base)
    assert recipe is not None
    assert recipe.name == "atlas"
    chosen = get_method(method)
    options = chosen.options(**{**recipe.method_options(method), **changes})
    patch = chosen.build(base, read_facts(RECIPES / "facts" / f"{count}.jsonl").facts, options)
    return evaluate(base, patch)


def values(report: EvaluationReport) -> tuple[float, float, float]:
    scores = report.patched.scores
    found = scores.efficacy.value, scores.generalization.value, scores.specificity.value
    assert None not in found
    return found  # type: ignore[return-value]


@pytest.mark.quality
def test_ten_facts_hold_and_their_neighbours_too(base: Base) -> None:
    report = build_and_evaluate(base, 10)
    efficacy, generalization, specificity = values(report)
    at_most("efficacy missed", 100 - efficacy, 1)
    at_most("generalization missed", 100 - generalization, 5)
    assert report.base.scores.specificity.value is not None
    at_most("specificity lost", report.base.scores.specificity.value - specificity, 2)


@pytest.mark.quality
@pytest.mark.slow
def test_fifty_facts_hold_and_projection_saves_their_neighbours(base: Base) -> None:
    """Over 5 s: it searches target values for fifty facts, and evaluates two patches on all their prompts."""
    report = build_and_evaluate(base, 50)
    bare = build_and_evaluate(base, 50, projection=False)
    efficacy, generalization, specificity = values(report)
    at_most("efficacy missed", 100 - efficacy, 1)
    at_most("generalization missed", 100 - generalization, 10)
    assert report.base.scores.specificity.value is not None
    at_most("specificity lost", report.base.scores.specificity.value - specificity, 3)
    at_least("specificity that projection saves", specificity - values(bare)[2], 10)


@pytest.mark.quality
@pytest.mark.slow
def test_tucker_coordinates_keep_what_moeedit_reaches(base: Base) -> None:
    """Over 5 s: two methods build fifty facts, and each patch is evaluated on all their prompts."""
    full, tucker = (build_and_evaluate(base, 50, method).patched.scores for method in ("moeedit", "mote"))
    assert full.utility.value is not None
    assert tucker.utility.value is not None
    at_most("utility lost", full.utility.value - tucker.utility.value, 5)

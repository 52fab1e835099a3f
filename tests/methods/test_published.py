"""What `as-published` stands for: the papers' options, for any model and for the models that papers have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import moe_patch
from moe_patch.errors import ConfigError
from moe_patch.methods import METHODS, get_method
from moe_patch.methods.published import published_options
from moe_patch.tuning.choice import choose, settle
from tests.methods.builds import corpus, facts
from tests.methods.test_recipe_files import CONFIGS, MOEEDIT, MOTE, base_of
from tests.tiny import tiny_base

OWN = ["moeedit", "mote", "woodbury-spread", "bcd-spread"]


def published(method: str, base: Any, **given: Any) -> Any:
    return settle(base, get_method(method), given=given, recipe="as-published").options


@pytest.mark.parametrize("method", OWN)
def test_nothing_that_the_papers_lack_is_on(method: str) -> None:
    options = published(method, tiny_base("qwen3_moe"))
    assert not options.protect_earlier
    assert (options.projection, options.tau, options.energy) == (True, 0.02, None)
    assert not options.ridge_relative
    assert (options.corpus_length, options.corpus_tokens) == (1024, 100_000 * 1024)
    assert (options.unseen, options.min_tokens) == ("edit", 1)
    assert options.residual_share == "distance"
    assert options.experts_per_fact is None
    targets = options.targets
    assert (targets.units, targets.margin, targets.share, targets.patience) == ("published", None, 1.0, None)
    assert (targets.steps, targets.clamp, targets.stop_loss) == (25, 0.75, 0.05)
    assert (targets.keep_weight, targets.contexts) == (0.0, 0)


def test_each_paper_has_its_own_solver() -> None:
    base = tiny_base("qwen3_moe")
    moeedit, mote = published("moeedit", base), published("mote", base)
    assert (moeedit.solver, moeedit.passes, moeedit.ridge, moeedit.residual_at) == ("bcd", 4, 1.0, "last")
    assert (mote.whitening, mote.whitening_epsilon, mote.ridge) == ("in", 1e-5, 0.1)
    assert (mote.core_width, mote.rank_energy, mote.out_moment) == (4096, None, "gradients")


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_of_the_papers_has_its_values_and_still_nothing_else(name: str) -> None:
    base = base_of(name)
    layers, steps, rate, passes = MOEEDIT[name]
    moeedit = published("moeedit", base)
    assert (moeedit.layers, moeedit.targets.steps, moeedit.targets.learning_rate) == (layers, steps, rate)
    assert (moeedit.solver, moeedit.passes, moeedit.protect_earlier) == ("bcd", passes, False)
    assert moeedit.targets.keep_weight == 0.0  # of the general part, beside the model's own in `targets`
    mote = published("mote", base)
    assert (mote.layers, mote.ridge, mote.whitening_epsilon) == MOTE[name]
    assert mote.core_width == 4096
    _, model = published_options(base, get_method("moeedit"))
    assert model == name


def test_a_recipe_of_ours_does_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The demo model's recipe ships too, but no paper has it."""
    base = base_of("qwen3-30b-a3b", hidden_size=192, num_hidden_layers=6, num_experts=56)
    assert published_options(base, get_method("moeedit"))[1] == ""
    assert published("moeedit", base).layers == ()


def test_what_is_given_wins_and_all_has_its_source() -> None:
    choice = choose(
        tiny_base("qwen3_moe"),
        facts(),
        get_method("moeedit"),
        given={"layers": [1], "targets.steps": 3},
        recipe="as-published",
    )
    sources = {source.option: source for source in choice.sources}
    assert (sources["layers"].origin, sources["targets.steps"].origin) == ("given", "given")
    assert sources["solver"].origin == "recipe as-published"
    assert sources["solver"].reason == "the paper's"
    reasons = {
        source.reason
        for source in settle(base_of("gpt-oss-20b"), get_method("mote"), recipe="as-published").sources
    }
    assert "the paper's, for gpt-oss-20b" in reasons


@pytest.mark.parametrize("method", sorted(name for name, method in METHODS.items() if method.rival))
def test_a_method_to_compare_with_is_published_by_its_defaults(method: str) -> None:
    chosen = get_method(method)
    values, _ = published_options(tiny_base("qwen3_moe"), chosen)
    options = settle(tiny_base("qwen3_moe"), chosen, recipe="as-published").options
    assert options == chosen.Options.model_validate(values)
    if not values:
        assert options == chosen.options()


class Unpublished(type(get_method("moeedit"))):  # type: ignore[misc]
    name = "unpublished"
    pretty_name = "Unpublished"


def test_a_method_of_no_paper_says_so() -> None:
    with pytest.raises(ConfigError, match=r"no published options of Unpublished.*bcd-spread, .*moeedit"):
        published_options(tiny_base("qwen3_moe"), Unpublished())


def test_ultraedit_has_the_paper_s_absolute_rate() -> None:
    options = published("ultraedit", tiny_base("qwen3_moe"))
    assert (options.units, options.learning_rate, options.ridge) == ("published", 1e-6, 1.0)
    assert (options.ridge_relative, options.batch_size, options.tokens) == (False, 100, "all")


@pytest.mark.parametrize("method", ["moeedit", "mote"])
def test_a_build_as_published(method: str, tmp_path: Path) -> None:
    patch = moe_patch.build(
        facts(3),
        model=tiny_base("qwen3_moe"),
        method=method,
        recipe="as-published",
        corpus=str(corpus(tmp_path)),
        layers=[0, 2],
        batch_size=2,
        targets={"steps": 3},
    )
    assert list(patch.layers) == [0, 2]
    said = patch.hyperparameters
    assert (said["protect_earlier"], said["residual_share"], said["tau"]) == (False, "distance", 0.02)
    sources = said["sources"]
    assert isinstance(sources, dict)
    assert sources["tau"] == "recipe as-published: the paper's"
    if method == "moeedit":
        objectives = said["objectives"]
        assert isinstance(objectives, dict)
        assert [len(batch) for batch in objectives["0"]] == [5, 5]  # four passes in each of two batches

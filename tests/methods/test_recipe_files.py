"""The recipes for published models: each fits only its models, and has the papers' figures."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoConfig

from moe_patch.data.facts import Fact
from moe_patch.methods import get_method
from moe_patch.methods.recipes import load_recipe, recipe_for
from tests.tiny import tiny_base

CONFIGS: dict[str, dict[str, Any]] = {  # what the models' config.json say of their size
    "qwen3-30b-a3b": {
        "model_type": "qwen3_moe",
        "hidden_size": 2048,
        "moe_intermediate_size": 768,
        "num_hidden_layers": 48,
        "num_experts": 128,
        "num_experts_per_tok": 8,
    },
    "gpt-oss-20b": {
        "model_type": "gpt_oss",
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "num_hidden_layers": 24,
        "num_local_experts": 32,
        "num_experts_per_tok": 4,
    },
    "qwen3.6-35b-a3b": {
        "model_type": "qwen3_5_moe_text",
        "hidden_size": 2048,
        "moe_intermediate_size": 512,
        "num_hidden_layers": 40,
        "num_experts": 256,
        "num_experts_per_tok": 8,
    },
}

MOEEDIT = {  # layers, steps, learning rate, BCD passes
    "qwen3-30b-a3b": ((3, 4, 5, 6, 7), 25, 0.1, 4),
    "gpt-oss-20b": ((5,), 50, 0.2, 10),
    "qwen3.6-35b-a3b": ((3, 4, 5, 6), 25, 0.1, 2),
}
MOTE = {  # layers, lambda, whitening epsilon
    "qwen3-30b-a3b": ((3, 4, 5, 6, 7), 0.1, 1e-5),
    "gpt-oss-20b": ((3, 4, 5), 1.0, 1e-2),
    "qwen3.6-35b-a3b": ((3, 4, 5, 6), 0.01, 1e-5),
}


def base_of(name: str, **changes: Any) -> Any:
    """The part of a base that a recipe reads."""
    fields = CONFIGS[name] | changes
    config = AutoConfig.for_model(
        fields["model_type"], **{k: v for k, v in fields.items() if k != "model_type"}
    )
    return SimpleNamespace(model=SimpleNamespace(config=config))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_published_model_gets_its_own_recipe(name: str) -> None:
    found = recipe_for(base_of(name))
    assert found is not None
    assert found.name == name
    assert load_recipe(name) == found


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_of_another_size_gets_none(name: str) -> None:
    assert recipe_for(base_of(name, num_hidden_layers=94)) is None
    assert recipe_for(base_of(name, hidden_size=4096)) is None


@pytest.mark.parametrize("name", CONFIGS)
def test_recipes_hold_the_figures_of_the_papers(name: str) -> None:
    recipe = load_recipe(name)
    moeedit, mote = (
        get_method(method).options(**recipe.method_options(method)) for method in ("moeedit", "mote")
    )
    targets = moeedit.targets
    assert (moeedit.layers, targets.steps, targets.learning_rate, moeedit.passes) == MOEEDIT[name]
    assert (moeedit.ridge, moeedit.ridge_relative) == (1.0, False)
    assert (mote.layers, mote.ridge, mote.whitening_epsilon) == MOTE[name]
    assert mote.whitening == "in"
    assert mote.targets == targets
    assert (targets.kl_weight, targets.clamp, targets.weight_decay) == (0.0625, 0.75, 0.5)
    for options in (moeedit, mote):
        assert (options.tau, options.projection, options.batch_size) == (0.02, True, 50)
        assert options.corpus_tokens == 100_000 * 1024


@pytest.mark.parametrize("method", ["moeedit", "mote"])
def test_a_recipe_builds_between_linear_and_full_attention(method: str, tmp_path: Path) -> None:
    """Qwen3.6's edit layers, with linear attention below and above them."""
    kinds = [*["linear_attention"] * 3, "full_attention"]
    base = tiny_base("qwen3_5_moe_text", num_hidden_layers=8, layer_types=kinds * 2)
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("A house stands by the sea, and the sun is warm. " * 16)
    options = load_recipe("qwen3.6-35b-a3b").method_options(method)
    smaller = {"corpus": corpus, "corpus_tokens": 256, "unseen": "edit"}
    targets = {**options["targets"], "steps": 3}
    chosen = get_method(method)
    patch = chosen.build(
        base,
        [Fact("sea", "A ship sails on the {}", "Baltic", "Nile")],
        chosen.options(**{**options, **smaller, "targets": targets}),
    )
    assert list(patch.layers) == [3, 4, 5, 6]
    assert patch.results[0]["loss_target"] < patch.results[0]["loss_before"]

"""The recipes for published models: each fits only its models, and has the papers' figures."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoConfig

from moe_patch.methods import get_method
from moe_patch.methods.recipes import load_recipe, recipe_for

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

"""A model that gives NaN has no scores, no keys, no moments and no targets: each says so, and where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import moe_patch
from moe_patch.base.model import Base
from moe_patch.base.statistics import collect_moments
from moe_patch.data.corpus import Corpus
from moe_patch.errors import NotFinite, NumericalError
from moe_patch.evaluation.routing import record_routing
from moe_patch.evaluation.scoring import continue_greedily, score_answers
from moe_patch.methods import get_method
from tests.methods.builds import build, corpus, facts
from tests.tiny import tiny_base, tiny_patch


def broken(part: str, value: float = float("nan")) -> Base:
    """A tiny model with one number of a weight replaced."""
    base = tiny_base("qwen3_moe")
    weight = base.model.get_submodule(part).weight
    with torch.no_grad():
        weight.view(-1)[0] = value
    return base


READS: dict[str, Callable[[Base], Any]] = {
    "log-probabilities of the answer after 'Ulm lies in'": lambda base: score_answers(
        base, [("Ulm lies in", "Land")]
    ),
    "logits after 'Ulm lies in'": lambda base: continue_greedily(base, ["Ulm lies in"], [3]),
    "(gates|router's scores) at layer 1, experts .* in 'Ulm lies in'": lambda base: record_routing(
        base, ["Ulm lies in"]
    ),
    "keys at layer 1, experts .* in 'Ulm lies in Land0'": lambda base: build("moeedit", base),
}


@pytest.mark.parametrize("said", READS)
def test_what_is_read_from_a_broken_model_is_an_error(said: str) -> None:
    with pytest.raises(NumericalError, match=f"the {said} are NaN: .*--dtype float32"):
        READS[said](broken("model.layers.1.post_attention_layernorm"))


def test_targets_that_a_broken_head_answers_to_are_an_error() -> None:
    with pytest.raises(NumericalError, match="the losses of the new answer of fact fact-0 are NaN"):
        build("moeedit", broken("model.norm"))


def test_moments_of_keys_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(NumericalError, match=r"second moments of keys at layer 1, expert .* are NaN"):
        collect_moments(
            broken("model.layers.0.self_attn.o_proj"), Corpus.read(corpus(tmp_path)), [1], use_cache=False
        )


def test_what_overflows_in_the_weights_type_is_not_put_there() -> None:
    base = tiny_base("qwen3_moe")
    patch = tiny_patch(base, [0], scale=1e6)
    base.model.half()
    with pytest.raises(NotFinite, match="layer 0, expert 0: with the patch, the weight overflows"):
        moe_patch.apply(base, patch, check=False, allow_large=True)


def test_training_that_runs_away_says_so() -> None:
    method = get_method("memoe")
    options = method.options(layer=1, steps=30, learning_rate=1e6, scope_gate=False, balance=False)
    with pytest.raises(NumericalError, match=r"the losses of training at step .*learning_rate"):
        method.build(tiny_base("qwen3_moe"), facts(2), options)

"""Where a build edits if nobody says: by tracing, or by a rule where tracing says nothing."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import LlamaConfig

from moe_patch.base.opening import wrap
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import PromptStyle
from moe_patch.errors import CaptureError
from moe_patch.tracing import Location, locate_edit
from moe_patch.tuning import layers as layers_module
from moe_patch.tuning.layers import find_place, layer_candidates
from tests.methods.builds import facts
from tests.taught import SUBJECTS, edit, taught_base
from tests.tiny import random_model, tiny_base, tiny_tokenizer

STYLE = PromptStyle(False, "subject-last")


def test_layers_are_those_that_a_short_trace_chooses() -> None:
    base, some = taught_base(), [edit(subject) for subject in SUBJECTS]
    place, expected = find_place(base, some, STYLE), locate_edit(base, some, style=STYLE)
    assert expected is not None
    assert (place.layers, place.ranking) == (expected.layers, expected.ranking)
    assert place.reason.startswith(f"tracing {len(expected.report.facts)} of these facts: ")


def test_a_model_that_cannot_be_traced_is_edited_early(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: Any, **__: Any) -> Location:
        raise CaptureError("the embeddings cannot be changed")

    monkeypatch.setattr(layers_module, "locate_edit", refused)
    place = find_place(tiny_base("qwen3_moe", num_hidden_layers=5), facts(), STYLE)
    assert place.layers == (1,)
    assert "tracing is not possible" in place.reason
    assert "the embeddings cannot be changed" in caplog.text


def test_a_model_that_knows_nothing_is_edited_early() -> None:
    place = find_place(tiny_base("qwen3_moe"), facts(), STYLE)
    assert place.layers == (1,)
    assert place.ranking == ()
    assert "no fact that noise at its subject takes away" in place.reason


def test_facts_that_the_model_does_not_know_give_way_to_some_that_it_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = [edit(subject) for subject in SUBJECTS]
    monkeypatch.setattr("moe_patch.tracing.location.known_facts", lambda *_, **__: known)
    place = find_place(taught_base(), [Fact("x", "{} QQ", "zzz", "Rome")], STYLE)
    assert "facts that the model knows, since it does not know these" in place.reason


def test_without_facts_or_experts_a_layer_is_taken_all_the_same() -> None:
    assert find_place(tiny_base("qwen3_moe"), (), STYLE).layers == (1,)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2, vocab_size=300
    )
    dense = wrap(random_model(config), tiny_tokenizer(), allow_dense=True)
    assert find_place(dense, facts(), STYLE).layers == (1,)


def test_candidates_are_runs_up_to_the_place_and_layers_that_carry_much() -> None:
    base = tiny_base("qwen3_moe", num_hidden_layers=6)
    assert layer_candidates(base, (2,), (3, 2, 5, 0, 1, 4)) == [(2,), (1, 2), (0, 1, 2), (3,), (5,), (0,)]
    assert layer_candidates(base, (0,), ()) == [(0,), (1,), (2,), (3,)]

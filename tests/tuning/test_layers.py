"""Where a build edits if nobody says: by tracing, or by a rule where tracing says nothing."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import LlamaConfig

from moe_patch.base.opening import wrap
from moe_patch.data.prompts import PromptStyle
from moe_patch.errors import CaptureError
from moe_patch.tracing import Effect, LayerEffect, TraceReport, choose_layers, trace
from moe_patch.tuning import layers as layers_module
from moe_patch.tuning.layers import TRACED, find_place, layer_candidates
from tests.methods.builds import facts
from tests.taught import SUBJECTS, edit, taught_base
from tests.tiny import random_model, tiny_base, tiny_tokenizer

STYLE = PromptStyle(False, "subject-last")


def test_layers_are_those_that_a_trace_chooses() -> None:
    base, some = taught_base(), [edit(subject) for subject in SUBJECTS[:4]]
    place = find_place(base, some, STYLE)
    report = trace(base, some, style=STYLE)
    assert place.layers == choose_layers(report, base)
    assert place.ranking == report.ranking()
    assert place.reason.startswith("tracing 4 facts: it carries ")


@pytest.mark.parametrize(("count", "traced"), [(3, 3), (16, 16), (17, 9), (100, 15)])
def test_of_many_facts_some_are_traced(count: int, traced: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def refused(base: Any, some: Any, **_: Any) -> TraceReport:
        seen.append(len(some))
        raise CaptureError("no embeddings")

    monkeypatch.setattr(layers_module, "trace", refused)
    find_place(tiny_base("qwen3_moe"), facts(count), STYLE)
    assert seen == [traced]
    assert traced <= TRACED


def test_a_model_that_cannot_be_traced_is_edited_early(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: Any, **__: Any) -> TraceReport:
        raise CaptureError("the embeddings cannot be changed")

    monkeypatch.setattr(layers_module, "trace", refused)
    place = find_place(tiny_base("qwen3_moe", num_hidden_layers=5), facts(), STYLE)
    assert place.layers == (1,)
    assert "tracing is not possible" in place.reason
    assert "the embeddings cannot be changed" in caplog.text


def test_a_model_in_which_no_layer_carries_anything_is_edited_early(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Effect(-0.1, 0.0)
    report = TraceReport(
        base="b",
        facts=(),
        noise=3.0,
        samples=1,
        seed=0,
        window=1,
        total=nothing,
        layers=tuple(LayerEffect(layer, 4, {"moe": nothing}) for layer in range(3)),
    )
    monkeypatch.setattr(layers_module, "trace", lambda *_, **__: report)
    place = find_place(tiny_base("qwen3_moe"), facts(), STYLE)
    assert place.layers == (1,)
    assert place.ranking == ()
    assert "no layer that carries" in place.reason


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

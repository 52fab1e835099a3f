"""The text that a build preserves: what is given, or what the base writes itself."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from moe_patch.data.corpus import Corpus
from moe_patch.elicit import growing
from moe_patch.elicit import own_text as module
from moe_patch.elicit.own_text import own_text
from moe_patch.methods.preserved import preserve
from tests.methods.builds import build, corpus
from tests.tiny import tiny_base

OWN = {"projection": True, "corpus_tokens": 400, "energy": 0.5, "min_tokens": 1, "unseen": "edit"}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TEXT_TOKENS", 16)


def test_without_a_corpus_a_build_preserves_what_the_base_writes() -> None:
    base = tiny_base("qwen3_moe")
    patch = build("moeedit", base, 2, **OWN)
    own = own_text(base, [0, 1], most=400, least=1)
    said = patch.hyperparameters
    assert said["corpus_hash"] == own.corpus.hash
    assert said["preserved_text"] == {
        "source": "own",
        "tokens": own.growth.tokens,
        "left_out": own.growth.left_out,
        "settled": own.growth.settled,
        "sought": own.growth.sought,
        "unreached": own.growth.unreached,
    }
    assert isinstance(said["protection"], list)
    assert [layer["layer"] for layer in said["protection"] if isinstance(layer, dict)] == [0, 1]
    assert patch.controls is not None
    beginnings = {" ".join(text.split()[:8]) for text in own.prose}
    assert {control.prompt for control in patch.controls.prompts} & beginnings
    again = build("moeedit", base, 2, **OWN)
    assert all(torch.equal(again.layers[layer].left, patch.layers[layer].left) for layer in (0, 1))


def test_a_given_corpus_is_taken_as_it_is(tmp_path: Path) -> None:
    text = corpus(tmp_path)
    found = preserve(tiny_base("qwen3_moe"), [1], [str(text)], 30)
    assert found.texts == Corpus.read(text).texts
    assert found.corpus_hash == Corpus.read(text).hash
    assert found.record == {"source": "corpus"}
    assert int(found.moments[1].tokens.sum()) == 30 * 3  # top-3


def test_longer_texts_are_cut_where_it_is_said(tmp_path: Path) -> None:
    base, text = tiny_base("qwen3_moe"), corpus(tmp_path)
    whole, cut = (preserve(base, [1], [str(text)], 10_000, length=length).moments[1] for length in (512, 4))
    assert not torch.equal(whole.second, cut.second)
    assert int(whole.tokens.sum()) <= int(cut.tokens.sum())  # each piece has the tokens that start a text
    built = build("moeedit", base, 2, corpus=text, corpus_length=4)
    assert built.hyperparameters["corpus_length"] == 4
    other = build("moeedit", base, 2, corpus=text)
    assert not torch.equal(built.layers[0].rows.value, other.layers[0].rows.value)


def test_text_that_ends_before_it_settles_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    base = tiny_base("qwen3_moe")
    with caplog.at_level(logging.WARNING):
        monkeypatch.setattr(growing, "SETTLED", 1.0)
        preserve(base, [0], None, 300, least=1)
        assert not caplog.records
        monkeypatch.setattr(growing, "SETTLED", -1.0)
        preserve(base, [0], None, 301, least=1)
    (record,) = caplog.records
    assert "still turn" in record.getMessage()
    assert "--corpus" in record.getMessage()

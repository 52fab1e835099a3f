"""`moe-patch locate`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from moe_patch.elicit import known
from tests.cli.conftest import FACTS, Run
from tests.taught import MODEL, answer, edit
from tests.tiny import tiny_base, tiny_tokenizer


def test_effects_are_shown_by_layer_with_a_place_to_edit(run: Run, model: Path, edits: Path) -> None:
    result = run("locate", "--edits", edits, "--model", model, "--samples", "1", "--attention")
    assert result.exit_code == 0, result.output
    assert "points of probability that restoring one layer brings back" in " ".join(result.stdout.split())
    assert "3 facts" in result.stdout
    assert "Edit at layer" in result.stdout
    assert result.stderr == ""


def test_the_same_as_json(run: Run, model: Path, edits: Path) -> None:
    words = ("locate", "--edits", edits, "--model", model, "--samples", "2", "--json")
    found = json.loads(run(*words, "--facts", "2", "--layers", "1-2", "--coalitions").stdout)
    assert [each["layer"] for each in found["layers"]] == [1, 2]
    assert [fact["id"] for fact in found["facts"]] == [FACTS[0].id, FACTS[1].id]
    assert set(found["layers"][0]["effects"]) == {"moe", "stream"}
    assert found["total"]["mean"] == pytest.approx(found["clean"]["mean"] - found["corrupted"]["mean"])
    assert len(found["chosen"]) == 1
    assert [each["layer"] for each in found["experts"]] == [1, 2]
    assert json.loads(run(*words, "--facts", "2", "--layers", "1-2", "--coalitions").stdout) == found


def test_experts_are_shown_for_every_layer_and_coalitions_for_one(run: Run, model: Path, edits: Path) -> None:
    words = ("locate", "--edits", edits, "--model", model, "--samples", "1", "--facts", "1")
    shown = run(*words, "--experts").stdout
    assert all(f"Experts of layer {layer}" in shown for layer in range(3))
    assert "best coalition" not in shown
    shown = run(*words, "--coalitions").stdout
    assert shown.count("Experts of layer") == 1
    assert "best coalition" in shown


def test_known_facts_are_traced_where_none_are_given(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sentences = [f"{name} eats {answer('{} eats', name)}." for name in ("Ann", "Bob", "Carl", "Dora")]
    monkeypatch.setattr(known, "write_sentences", lambda *_: sentences)
    monkeypatch.setattr(known, "_ROUNDS", 1)
    tiny_tokenizer().save_pretrained(tmp_path)
    for file in MODEL.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    result = run("locate", "--model", tmp_path, "--facts", "2", "--samples", "1", "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)["facts"]
    assert facts
    assert all(fact["known"] for fact in facts)
    assert edit("Ann").target_true == answer("{} eats", "Ann")


def test_a_model_that_knows_nothing_is_said_to_in_one_line(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "_ROUNDS", 1)
    result = run("locate", "--model", model)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "writes no sentence with a fact that it knows: give facts with --edits" in result.stderr


def test_a_drawing(
    run: Run, model: Path, edits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("locate", "--edits", edits, "--model", model, "--samples", "1", "--plot")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "matplotlib.figure", None)
        assert "needs matplotlib: pip install 'moe-patch[bench]'" in run(*words, tmp_path / "a.svg").stderr
    assert "expected a name that ends in" in run(*words, tmp_path / "a.bmp").stderr
    pytest.importorskip("matplotlib")
    result = run(*words, tmp_path / "a.svg", "--window", "2")
    assert result.exit_code == 0, result.output
    assert "<svg" in (tmp_path / "a.svg").read_text(encoding="utf-8")


def test_dense_layers_are_listed_and_a_dense_model_has_no_place(
    run: Run, edits: Path, tmp_path: Path
) -> None:
    base = tiny_base("deepseek_v3")
    base.model.save_pretrained(tmp_path)
    base.tokenizer.save_pretrained(tmp_path)
    shown = run("locate", "--edits", edits, "--model", tmp_path, "--samples", "1", "--experts").stdout
    assert "dense" in shown
    assert "Experts of layer 0" not in shown
    result = run("locate", "--edits", edits, "--model", tmp_path, "--samples", "1", "--layers", "0")
    assert result.exit_code == 0
    assert "Edit at layer" not in result.stdout


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--layers", "9"), "layers 9 cannot be traced"),
        (("--samples", "0"), "--samples"),
        (("--noise", "nan"), "--noise"),
        (("--schema", "zsre-alt"), "records"),
    ],
)
def test_mistakes_are_named(run: Run, model: Path, edits: Path, words: tuple[str, ...], problem: str) -> None:
    result = run("locate", "--edits", edits, "--model", model, *words)
    assert result.exit_code
    assert problem in result.stderr

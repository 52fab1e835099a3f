"""GRACE: facts are said near their keys, everything else passes bit for bit, and vLLM refuses it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from moe_patch.apply import apply
from moe_patch.bypass import read_codebook
from moe_patch.bypass.codebook_file import read_fact_keys
from moe_patch.cli import main
from moe_patch.data.facts import Fact
from moe_patch.errors import ConfigError, PatchError
from moe_patch.evaluation.scoring import score_answers
from moe_patch.methods import get_method
from moe_patch.patch import Patch, load, save
from moe_patch_serving.bypass.flags import refuse_codebook
from tests.apply.bypassed import base_of, generated, left_padded, logits_of, one_by_one, prompts
from tests.methods.builds import facts, snapshot, unchanged
from tests.taught import SUBJECTS, answer, edit, said, taught_base

EDITED = ("Carl", "Gus", "Liz", "Ida")


def build(base: Any = None, some: Any = None, **options: Any) -> Patch:
    method = get_method("grace")
    some = [edit(subject) for subject in EDITED] if some is None else some
    values = {"layer": 0, "steps": 100, "epsilon": 0.05} | options
    return method.build(base or taught_base(), some, method.options(**values))


@pytest.mark.parametrize("replace", ["prompt", "last"])
def test_facts_are_said_and_the_base_keeps_every_bit(replace: str, tmp_path: Path) -> None:
    base = taught_base()
    before = snapshot(base)
    patch = build(replace=replace)
    assert unchanged(base, before)
    save(patch, tmp_path / "a.safetensors")
    asked = [(edit(subject).text, edit(subject).target_new) for subject in EDITED]
    alone = score_answers(base, asked)
    with apply(base, load(tmp_path / "a.safetensors")):
        assert all(score.exact for score in score_answers(base, asked))
        answers = said(base, [prompt for prompt, _ in asked])
        assert all(found.startswith(new) for found, (_, new) in zip(answers, asked, strict=True))
    assert score_answers(base, asked) == alone
    assert all(result["taken"] for result in patch.results)
    assert read_fact_keys(patch).tolist() == [0, 1, 2, 3]


def test_what_is_near_no_key_passes_bit_for_bit() -> None:
    base = taught_base()
    patch = build(epsilon=1e-3)
    others = [subject for subject in SUBJECTS if subject not in EDITED][:4]
    rows = [base.tokenizer(edit(name).text, return_tensors="pt").input_ids for name in others]
    before = [logits_of(base, row) for row in rows]
    with apply(base, patch):
        assert all(torch.equal(logits_of(base, row), was) for row, was in zip(rows, before, strict=True))


@pytest.mark.parametrize("model_type", ["qwen3_moe", "gpt_oss", "llama"])
@pytest.mark.parametrize("replace", ["prompt", "last"])
def test_generating_is_what_full_passes_give(model_type: str, replace: str) -> None:
    base = base_of(model_type)
    patch = build(base, facts(3), steps=2, scale=3.0, replace=replace)
    rows = [*prompts(2), *(base.tokenizer(fact.text, return_tensors="pt").input_ids for fact in facts(3))]
    plain = [one_by_one(base, row, 4) for row in rows]
    with apply(base, patch):
        expected = [one_by_one(base, row, 4) for row in rows]
        assert [generated(base, row, torch.ones_like(row), 4)[0] for row in rows] == expected
        assert generated(base, *left_padded(rows), 4) == expected
    assert expected[:2] == plain[:2]
    assert expected[2:] != plain[2:]


def test_a_fact_that_is_said_already_gets_no_key() -> None:
    known = Fact("known", "{} eats", "Ann", answer("{} eats", "Ann"))
    patch = build(some=[edit("Carl"), known])
    assert read_fact_keys(patch).tolist() == [0, -1]
    assert read_codebook(patch).config.keys == 1
    with pytest.raises(ConfigError, match="edit_known"):
        build(some=[known])
    assert read_fact_keys(build(some=[known], edit_known=True, steps=2)).tolist() == [0]


def test_facts_of_one_answer_and_near_queries_share_a_key() -> None:
    one, two = edit("Carl"), edit("Gus")
    assert one.target_new != two.target_new
    same = Fact("same", "{} eats", "Gus", one.target_new)
    patch = build(some=[one, same], epsilon=1e4, edit_known=True)
    codebook = read_codebook(patch)
    assert read_fact_keys(patch).tolist() == [0, 0]
    assert codebook.config.keys == 1
    apart = build(some=[one, two], epsilon=1e4)
    split = read_codebook(apart)
    distance = float((split.key[0] - split.key[1]).norm())
    assert split.radius.tolist() == pytest.approx([distance / 2 - 1e-5, distance / 2], rel=1e-5)


def test_servers_refuse_it_in_one_line_and_inspect_shows_it(tmp_path: Path) -> None:
    patch = build(steps=2)
    with pytest.raises(PatchError, match="vLLM cannot run") as error:
        refuse_codebook(patch)
    assert "\n" not in str(error.value)
    save(patch, tmp_path / "a.safetensors")
    shown = CliRunner().invoke(main, ["inspect", str(tmp_path / "a.safetensors"), "--json"])
    assert json.loads(shown.stdout)["bypass"]["keys"] == 4
    table = CliRunner().invoke(main, ["inspect", str(tmp_path / "a.safetensors")])
    assert "a codebook of 4 keys" in " ".join(table.stdout.split())


def test_without_a_layer_it_asks_for_one() -> None:
    with pytest.raises(ConfigError, match="no layer for the codebook"):
        build(layer=None)

"""The small models of other families: their world, their isolated subjects, and a step of their training."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import AutoTokenizer

from moe_patch.base.opening import open_base
from moe_patch.data.fact_file import read_facts
from recipes.families.models import FAMILIES, Family, new_model
from recipes.families.secluded import SecludingTrainer, pieces
from recipes.families.train import ATLAS, EDITS, write_materials
from recipes.families.world import small_world, unseen_text
from recipes.training.sentences import SentenceBatch, collate, epoch_batches, tokenize
from recipes.training.trainer import Schedule
from recipes.training.world import Triple, read_world


@pytest.fixture(scope="module")
def world() -> list[Triple]:
    return small_world(read_world())


@pytest.fixture(scope="module")
def batch(world: list[Triple]) -> SentenceBatch:
    """Four rows, of up to three sentences."""
    sentences = tokenize(world[:9], AutoTokenizer.from_pretrained(ATLAS), held_out=False)
    return collate([sentences[:3], sentences[3:5], sentences[5:6], sentences[6:9]], 0.1)


def trainer(family: Family, world: list[Triple], **schedule: float) -> SecludingTrainer:
    torch.manual_seed(0)
    return SecludingTrainer(Schedule(**schedule), new_model(family, 4096), world)  # type: ignore[arg-type]


def test_the_world_has_facts_of_hundreds_of_subjects(world: list[Triple]) -> None:
    assert len(world) > 500
    assert len({t.subject for t in world}) == 16 * 13
    assert set(world) < set(read_world())


def test_what_is_written_is_about_the_world(world: list[Triple], tmp_path: Path) -> None:
    write_materials(world, tmp_path)
    facts = read_facts(tmp_path / "facts.jsonl").facts
    known = {(t.subject, t.answer) for t in world}
    assert len(facts) == EDITS
    assert {(f.subject, f.target_true) for f in facts} <= known
    assert all(f.paraphrases and f.neighborhood for f in facts)
    edited = {fact.subject for fact in facts}
    prompts = [p for t in world if t.subject in edited for p in t.prompts(held_out=True)]
    lines = (tmp_path / "text.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) > 300
    assert not [line for line in lines if line.startswith(tuple(f"{prompt} " for prompt in prompts))]


def test_unseen_text_is_in_phrasings_that_nothing_was_taught_in(world: list[Triple]) -> None:
    taught = {f"{prompt} {t.answer}." for t in world for prompt in t.prompts(held_out=False)}
    text = unseen_text(world, {world[0].subject})
    assert text
    assert not taught & set(text)


def test_pieces_hold_every_token_once(batch: SentenceBatch) -> None:
    places, own = pieces(batch)
    assert sorted(places[own].tolist()) == (batch.ids.flatten() != 0).nonzero()[:, 0].tolist()
    assert (batch.ids.flatten()[places[:, 0]] == 1).all(), "each piece begins with BOS"
    ends = batch.subject_end.flatten()[places]
    assert all(len(set(ends[row][own[row]].tolist())) == 1 for row in range(len(places)))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_secluded_subject_is_felt_by_nothing_below_the_border(
    name: str, world: list[Triple], batch: SentenceBatch
) -> None:
    taught = trainer(FAMILIES[name], world)
    last = batch.lasts[0]
    other = batch.ids.clone()
    other[last[0], last[1]] = 77
    changed = SentenceBatch(other, batch.weight, batch.subject_end, batch.lasts, batch.triples)
    with torch.no_grad():
        for secluded in (True, False):
            before, after = (taught.hidden(given, secluded)[1] for given in (batch, changed))
            moved = (before - after).abs().amax(-1) > 1e-4  # (B, S)
            assert moved[last[0], last[1]]
            assert (moved.sum() == 1) == secluded


@pytest.mark.parametrize("name", FAMILIES)
def test_a_row_without_subjects_is_run_alike_either_way(
    name: str, world: list[Triple], batch: SentenceBatch
) -> None:
    nobody = torch.full_like(batch.subject_end, batch.ids.shape[1])
    plain = SentenceBatch(batch.ids, batch.weight, nobody, batch.lasts, batch.triples)
    taught = trainer(FAMILIES[name], world)
    with torch.no_grad():
        whole, parted = (taught.hidden(plain, secluded) for secluded in (False, True))
    real = batch.ids != 0
    for expected, found in zip(whole, parted, strict=True):
        torch.testing.assert_close(found[real], expected[real], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_few_steps_teach_it_something(name: str, world: list[Triple]) -> None:
    if name == "hybrid" and Version(transformers.__version__) < Version("5.17"):
        pytest.skip("its loss of balance does not run in this release of transformers")
    tokenizer = AutoTokenizer.from_pretrained(ATLAS)
    sentences = tokenize(world[:4], tokenizer, held_out=False)
    taught = trainer(FAMILIES[name], world)
    steps = [
        taught.step(batch, 1e-3, secluded=bool(number % 2))
        for number in range(2)
        for batch in epoch_batches(sentences, 16, 0.1, random.Random(0))
    ]
    assert steps[-1]["lm"] < 0.9 * steps[0]["lm"]


@pytest.mark.parametrize("name", FAMILIES)
def test_it_can_be_edited(name: str, tmp_path: Path) -> None:
    new_model(FAMILIES[name], 4096).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(ATLAS).save_pretrained(tmp_path)
    base = open_base(str(tmp_path))
    assert len(base.layers) >= 5
    assert all(base.layer(number).num_experts in (8, 16) for number in base.layers)

"""Samples: every prompt by itself adds up to the scores, and has what the model says alone."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import fmean

import pytest
import torch

from moe_patch.apply import apply
from moe_patch.base.model import Base
from moe_patch.data.facts import Fact, Implication
from moe_patch.evaluation import EvaluationReport, Sample, evaluate
from moe_patch.evaluation.samples import samples_by_fact
from moe_patch.evaluation.scoring import answer_text, continue_greedily
from moe_patch.patch import Patch
from tests.evaluation.test_evaluate import FACTS
from tests.tiny import tiny_base, tiny_patch


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base("qwen3_moe")


@pytest.fixture(scope="module")
def patch(base: Base) -> Patch:
    return tiny_patch(base, [0, 1], scale=1.5)


def of(report: EvaluationReport, kind: str) -> list[Sample]:
    return [each for each in report.samples if each.asked.kind == kind]


def test_by_counterfact_the_likelier_answers_add_up_to_the_scores(base: Base, patch: Patch) -> None:
    report = evaluate(base, patch, FACTS, rule="counterfact", routing=False, free=False, samples=True)
    for state in ("base", "patched"):
        scores, exact = getattr(report, state).scores, getattr(report, state).exact
        for kind, score, whole in (
            ("fact", scores.efficacy, exact.efficacy),
            ("paraphrase", scores.generalization, exact.generalization),
            ("neighbour", scores.specificity, exact.specificity),
        ):
            some = [getattr(each, state).to_json() for each in of(report, kind)]
            new_wins = [float(each["new"] > each["old"]) for each in some]
            kept = [1 - won for won in new_wins]
            assert 100 * fmean(kept if kind == "neighbour" else new_wins) == pytest.approx(score.value)
            if state == "patched":
                good = [float(each.good) for each in of(report, kind)]
                assert 100 * fmean(good) == pytest.approx(whole.value)


def test_a_probability_is_the_geometric_mean_over_the_tokens(base: Base, patch: Patch) -> None:
    report = evaluate(base, patch, FACTS[:1], routing=False, free=False, samples=True)
    fact = FACTS[0]
    prompt = base.tokenizer(fact.text)["input_ids"]
    answer = base.tokenizer(f" {fact.target_new}", add_special_tokens=False)["input_ids"]
    with torch.no_grad(), apply(base, patch):
        logits = base.model(input_ids=torch.tensor([prompt + answer])).logits[0].double()
    chances = logits.softmax(-1)[torch.arange(len(prompt) - 1, len(prompt + answer) - 1), answer]
    (sample,) = of(report, "fact")
    assert sample.patched.to_json()["new"] == pytest.approx(float(chances.log().mean().exp()), rel=1e-4)


def test_what_is_said_is_what_the_model_says_alone(base: Base, patch: Patch) -> None:
    report = evaluate(base, patch, FACTS, routing=False, free=False, samples=True)
    for each in of(report, "paraphrase"):
        length = len(f" {each.asked.new}")  # a token is a byte
        for said, on in ((each.base, False), (each.patched, True)):
            handle = apply(base, patch) if on else None
            (alone,) = continue_greedily(base, [each.asked.question.prompt], [length])
            if handle is not None:
                handle.remove()
            assert said.says == answer_text(base, alone)


def test_neighbours_without_an_answer_are_compared_with_the_base(base: Base, patch: Patch) -> None:
    facts = [replace(fact, target_true=None) for fact in FACTS]
    report = evaluate(base, patch, facts, routing=False, free=False, samples=True)
    assert all(each.asked.wanted == (each.base.says or None) for each in of(report, "neighbour"))
    assert all(each.asked.old is None and each.base.old is None for each in of(report, "fact"))


def test_facts_of_one_name_stay_apart_and_what_follows_is_asked_too(base: Base, patch: Patch) -> None:
    implied = (Implication("Town 9 is where one speaks", "Elvish"),)
    facts = [
        *FACTS[:1],
        Fact("0", "{} lies in", "Town 9", "Land 3", portability=implied, keep=("{} has",)),
    ]
    report = evaluate(base, patch, facts, rule="zsre", routing=False, free=False, samples=True)
    by_fact = samples_by_fact(report.samples)
    assert [held["fact"] for held in by_fact] == ["0", "0"]
    assert [each["kind"] for each in by_fact[1]["prompts"]] == ["fact", "keep", "portability"]
    assert by_fact[1]["prompts"][2]["wanted"] == "Elvish"
    assert report.to_json()["per_fact"] == by_fact
    assert not any(math.isnan(each["base"]["new"]) for held in by_fact for each in held["prompts"])


def test_without_being_asked_for_there_are_none(base: Base, patch: Patch) -> None:
    report = evaluate(base, patch, FACTS, routing=False, free=False)
    assert report.samples == ()
    assert report.to_json()["per_fact"] is None

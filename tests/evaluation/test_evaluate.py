"""A whole evaluation: the base is measured too, and the model is unchanged afterwards."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from moe_patch.apply import apply
from moe_patch.base.model import Base
from moe_patch.data.fact_file import FactFile
from moe_patch.data.facts import Fact
from moe_patch.errors import EvaluationError, PromptError, WrongBase
from moe_patch.evaluation import FreeSetting, Questions, Setting, evaluate, measure_scores
from moe_patch.evaluation.free import write_freely
from moe_patch.patch import Patch
from tests.tiny import tiny_base, tiny_patch

FACTS = [
    Fact(
        str(i),
        "{} lies in",
        f"Town {i}",
        f"Land {i + 1}",
        f"Land {i}",
        (f"One finds Town {i} in", f"Town {i} belongs to"),
        (f"Village {i} lies in", f"Hamlet {i} lies in", f"City {i} lies in"),
    )
    for i in range(4)
]


@pytest.fixture
def base() -> Base:
    return tiny_base("qwen3_moe")


@pytest.fixture
def patch(base: Base) -> Patch:
    return tiny_patch(base, [0, 1], scale=1.5)


@pytest.mark.parametrize("rule", ["counterfact", "zsre"])
def test_the_base_is_measured_unpatched_and_left_unpatched(base: Base, patch: Patch, rule) -> None:
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    report = evaluate(base, patch, FACTS, rule=rule)
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.model.state_dict().items())
    if rule == "counterfact":
        alone = measure_scores(base, Questions.about(FACTS, rule), Setting(), stage="")
        assert report.base == alone
    assert report.patched != report.base


@pytest.mark.parametrize("field", ["paraphrases", "neighborhood"])
def test_a_prompt_that_is_too_long_is_named_with_its_fact(base: Base, patch: Patch, field: str) -> None:
    long = [*FACTS[:2], replace(FACTS[2], **{field: ("a" * 200,)})]
    with pytest.raises(PromptError, match=r"^fact 2, the prompt 'aaa.*: it is \d+ tokens long"):
        evaluate(base, patch, long)


def test_merged_and_hooked_patches_measure_the_same(base: Base, patch: Patch) -> None:
    merged = evaluate(base, patch, FACTS, mode="merge", setting=Setting(batch_size=5))
    hooked = evaluate(base, patch, FACTS, mode="hook")
    assert merged.patched == hooked.patched
    assert merged.preserved_routing is not None
    assert hooked.preserved_routing is not None
    assert merged.preserved_routing.similarity == pytest.approx(hooked.preserved_routing.similarity, abs=1.0)


def test_the_json_has_the_same_scores_for_patch_and_base(base: Base, patch: Patch) -> None:
    report = json.loads(json.dumps(evaluate(base, patch, FACTS).to_json()))
    names = {"efficacy", "generalization", "specificity", "utility"}
    others = {"answers", "agreement", "portability"}
    assert names <= report.keys()
    assert (
        report["base"].keys()
        == names | {"exact", "generated", *others}
        == report.keys() & report["base"].keys()
    )
    assert (report["facts"], report["schema"], report["rule"]) == (4, "native", "counterfact")
    for scores in (report, report["base"]):
        assert [scores[name]["n"] for name in sorted(names)] == [4, 8, 12, 24]
        for name in names:
            low, high = scores[name]["interval"]
            assert 0 <= low <= scores[name]["value"] <= high <= 100
        mean = sum(scores[name]["value"] for name in names - {"utility"}) / 3
        assert scores["utility"]["value"] == pytest.approx(mean)
    assert [layer["layer"] for layer in report["routing"]["preserved"]["layers"]] == [0, 1, 2]


def test_a_patch_is_measured_on_its_own_facts_unless_others_are_given(base: Base, patch: Patch) -> None:
    report = evaluate(base, patch, routing=False)
    assert (report.facts, report.scoring.rule) == (len(patch.facts), "zsre")
    assert report.patched.scores.specificity.value is None
    assert report.edited_routing is None


def test_the_rule_follows_from_the_schema_of_the_patch_or_of_the_file(base: Base, patch: Patch) -> None:
    zsre = replace(patch, facts=tuple(FACTS), schema="zsre-alt")
    scorings = [
        evaluate(base, some, facts, routing=False).scoring
        for some in (patch, zsre)
        for facts in (FACTS, FactFile(tuple(FACTS), (), "counterfact"), FactFile(tuple(FACTS), (), "qaedit"))
    ]
    assert [scoring.rule for scoring in scorings] == [
        *("counterfact", "counterfact", "zsre"),
        *("zsre", "counterfact", "zsre"),
    ]
    assert [scoring.schema for scoring in scorings][1::3] == ["counterfact"] * 2
    assert evaluate(base, zsre, routing=False).scoring.describe() == (
        "zsre-alt facts, zsre rule, specificity by agreement"
    )
    assert evaluate(base, zsre, rule="counterfact", routing=False).scoring.rule == "counterfact"


def test_what_both_write_freely_is_in_the_report(base: Base, patch: Patch) -> None:
    report = evaluate(base, patch, FACTS, routing=False, free=FreeSetting(budget=3))
    said = list(report.replies())
    assert {each["model"] for each in said} == {"base", "patched"}
    prompts = [fact.text for fact in FACTS]
    before = write_freely(base, prompts, Setting(), budget=3)
    with apply(base, patch):
        after = write_freely(base, prompts, Setting(), budget=3)
    for model, written in (("base", before), ("patched", after)):
        edited = {
            each["prompt"]: each["reply"]
            for each in said
            if (each["model"], each["kind"]) == (model, "reliability")
        }
        assert edited == {prompt: written[prompt].text for prompt in prompts}
    free = report.to_json()["free"]
    assert free["patched"]["locality"]["exact"]["n"] == 12
    assert free["base"]["locality"]["exact"]["n"] == 0
    assert evaluate(base, patch, FACTS, routing=False, free=False).to_json()["free"] is None


def test_routing_is_compared_on_as_many_untouched_facts_as_there_are_edited_ones(
    base: Base, patch: Patch
) -> None:
    others = [Fact(f"o{i}", "{} is in", f"Place {i}", "x") for i in range(9)]
    report = evaluate(base, patch, untouched=[*patch.facts, *others], free=False)
    assert report.untouched_routing is not None
    taken = [others[place * 9 // 4] for place in range(4)]
    assert report.untouched_routing.layers[0].tokens == sum(len(fact.text) for fact in taken)
    mixed = evaluate(base, patch, [*patch.facts[:2], *others[:3]], free=False)
    assert mixed.edited_routing is not None
    assert mixed.untouched_routing is not None
    assert mixed.edited_routing.layers[0].tokens == sum(len(fact.text) for fact in patch.facts[:2])
    assert mixed.untouched_routing.layers[0].tokens == sum(len(fact.text) for fact in (others[0], others[1]))
    assert evaluate(base, patch, others, free=False).untouched_routing is None


def test_the_report_says_whether_the_end_was_trained(base: Base, patch: Patch) -> None:
    stopped = replace(patch, hyperparameters={"targets": {"stop": True}})
    reports = [evaluate(base, some, FACTS, routing=False, free=False) for some in (patch, stopped)]
    assert [report.to_json()["stop"] for report in reports] == [False, True]


def test_a_patch_of_another_base_is_refused(patch: Patch) -> None:
    with pytest.raises(WrongBase):
        evaluate(tiny_base("qwen3_moe", seed=1), patch, FACTS)


@pytest.mark.parametrize("mode", ["merge", "hook"])
def test_an_edited_model_does_not_pass_for_the_base(base: Base, patch: Patch, mode) -> None:
    with (
        apply(base, tiny_patch(base, [2], seed=1), mode=mode),
        pytest.raises(EvaluationError, match="has a patch on"),
    ):
        evaluate(base, patch, FACTS)
    assert evaluate(base, patch, FACTS, routing=False).facts == len(FACTS)


def test_tables_show_every_score_and_layer(base: Base, patch: Patch) -> None:
    console = Console(width=200)
    report = evaluate(base, patch, FACTS)
    with console.capture() as captured:
        for table in report.tables():
            console.print(table)
    text = captured.get()
    for name in ("efficacy", "generalization", "specificity", "utility", "mean above 0"):
        assert name in text
    assert report.patched.scores.utility.value is not None
    assert f"{report.patched.scores.utility.value:.1f}" in text

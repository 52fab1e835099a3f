"""One experiment: what is measured, against the measurements themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moe_patch.apply import apply
from moe_patch.base.model import Base
from moe_patch.bench.run import Asking, measure_run
from moe_patch.data.fact_file import FactFile
from moe_patch.evaluation import Setting, evaluate
from moe_patch.evaluation.drift import measure_drift
from moe_patch.evaluation.free.judge import Judge
from moe_patch.evaluation.scoring import answer_text, continue_greedily
from moe_patch.methods import get_method
from moe_patch.methods.overrides import merged_options
from tests.bench.conftest import QUICK, experiments
from tests.evaluation.free.judge_server import judge_server
from tests.methods.builds import snapshot, unchanged

TEXT = [list(range(10, 40)), list(range(40, 60))]


def built(base: Base, facts: FactFile, **changes: object):
    options = {name: value for name, value in QUICK.items() if name != "whitening"} | changes
    method = get_method("moeedit")
    return method.build(base, facts, merged_options(method.Options, {}, options, ""))


def without_hash(evaluation: dict[str, Any]) -> dict[str, Any]:
    """The figures: patches that were built at different times have different hashes."""
    return {name: value for name, value in evaluation.items() if name != "hash"}


def test_a_batch_is_what_a_build_and_its_evaluation_are(base: Base, edits: Path) -> None:
    (one,) = experiments(
        base, edits, modes=["batch"], arms=[{"method": "moeedit", "options": {"solver": "bcd"}}]
    )
    before = snapshot(base)
    found = measure_run(base, one, Asking(text=TEXT))
    assert unchanged(base, before)
    patch = built(base, one.facts, solver="bcd")
    assert without_hash(found["evaluation"]) == without_hash(evaluate(base, patch, one.facts).to_json())
    assert found["perplexity"] == measure_drift(base, patch, TEXT).to_json()
    assert found["convergence"] == patch.hyperparameters["objectives"]
    assert found["size"]["experts"] == sum(len(delta.experts()) for delta in patch.layers.values())
    assert found["curve"] == []
    assert found["memory"]["host_peak"] >= found["memory"]["host_before"] > 0


def test_texts_are_what_the_model_writes(base: Base, edits: Path) -> None:
    (one,) = experiments(base, edits, modes=["batch"])
    shown = measure_run(base, one, Asking())["texts"]
    assert {each["kind"] for each in shown} == {"fact", "paraphrase", "neighbour"}
    patch = built(base, one.facts)
    prompts = [each["prompt"] for each in shown]

    def written() -> list[str]:
        return [answer_text(base, each) for each in continue_greedily(base, prompts, [16] * len(prompts))]

    assert [each["before"] for each in shown] == written()
    with apply(base, patch, mode="hook", allow_large=True):
        assert [each["after"] for each in shown] == written()


def test_the_curve_of_a_sequential_build_is_that_of_shorter_builds(base: Base, edits: Path) -> None:
    (one,) = experiments(base, edits, facts=[6])
    found = measure_run(base, one, Asking(checkpoints=[2, 5]))
    assert [point["facts"] for point in found["curve"]] == [2, 6]
    for point in found["curve"]:
        facts = one.facts[: int(point["facts"])]
        scores = evaluate(base, built(base, facts, batch_size=2), facts, mode="hook").patched.scores
        for name in ("efficacy", "generalization", "specificity"):
            assert point[name] == pytest.approx(getattr(scores, name).value)
    stages = {
        name: value for name, value in found["seconds"].items() if name not in ("choosing", "evaluation")
    }
    build = stages.pop("build")
    assert sum(stages.values()) == pytest.approx(
        build, rel=0.2, abs=0.05
    )  # what is measured on the way is in neither


def test_single_edits_are_each_on_the_bare_base(base: Base, edits: Path) -> None:
    (one,) = experiments(base, edits, modes=["single"], facts=[3])
    found = measure_run(base, one, Asking(text=TEXT))
    alone = []
    for i in range(3):
        facts = one.facts[i : i + 1]
        alone.append(evaluate(base, built(base, facts, batch_size=1), facts).to_json())
    pooled = found["evaluation"]
    assert pooled["facts"] == 3
    for name in ("efficacy", "generalization", "specificity"):
        n = sum(each[name]["n"] for each in alone)
        assert pooled[name]["n"] == n
        assert pooled[name]["value"] == pytest.approx(sum(e[name]["value"] * e[name]["n"] for e in alone) / n)
    assert len(found["texts"]) == 9


def test_scores_by_knowledge_frequency_divide_the_facts(base: Base, edits: Path) -> None:
    pytest.importorskip("wordfreq")
    (one,) = experiments(base, edits, modes=["batch"], facts=[5])
    first, second = measure_run(base, one, Asking(buckets=2))["buckets"]
    assert (first["facts"], second["facts"]) == (3, 2)
    assert first["gece"][1] <= second["gece"][0]
    assert first["scores"]["efficacy"]["n"] == 3


def test_a_method_that_rewrites_prompts_is_asked_with_them(base: Base, edits: Path) -> None:
    (one,) = experiments(base, edits, modes=["batch"], facts=[3], arms=[{"method": "rag"}])
    found = measure_run(base, one, Asking(text=TEXT))
    method = get_method("rag")
    patch = method.build(base, one.facts, method.options())
    setting = Setting(rewrite=method.rewriter(base, patch))
    alone = evaluate(base, patch, one.facts, setting=setting)
    assert without_hash(found["evaluation"]) == without_hash(alone.to_json())
    assert found["perplexity"] is None  # no weight has changed
    plain = next(text for text in found["texts"] if text["kind"] == "fact")
    said = answer_text(base, continue_greedily(base, [setting.asked(plain["prompt"])], [16])[0])
    assert plain["after"] == said


@pytest.mark.parametrize("mode", ["batch", "single"])
def test_a_judge_grades_what_every_model_writes(base: Base, edits: Path, mode: str) -> None:
    (one,) = experiments(base, edits, modes=[mode], facts=[2])
    with judge_server(lambda message: "yes" if "answer: Land 1\n" in message else "no") as server:
        judge = Judge(server.url, "grader")
        found = measure_run(base, one, Asking(judge=judge))
    free = found["evaluation"]["free"]["patched"]
    assert free["reliability"]["judged"]["n"] == 2
    assert free["reliability"]["judged"]["value"] == 50.0
    prompts = [each["prompt"] for each in free["judgements"]]
    assert all(any(f"Prompt: {fact.text}\n" in prompt for prompt in prompts) for fact in one.facts)
    assert found["config"]["judge"] == {"url": server.url, "model": "grader"}

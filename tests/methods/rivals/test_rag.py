"""RAG: facts are put before prompts about them, other prompts and all weights stay, and tools say so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from moe_patch.apply import apply
from moe_patch.base.model import Base
from moe_patch.cli import main
from moe_patch.data.facts import Fact
from moe_patch.errors import EvaluationError, MalformedMetadata, PatchError, StackError, WrongBase
from moe_patch.evaluation import Question, Setting, evaluate, patched
from moe_patch.evaluation.drift import measure_drift
from moe_patch.evaluation.metrics import asked_again, own_answers
from moe_patch.evaluation.scoring import score_answers
from moe_patch.evaluation.tasks import measure_tasks
from moe_patch.export.lora import to_lora
from moe_patch.methods import get_method, rewriter_of
from moe_patch.patch import Patch, load, save
from moe_patch.stack.combine import require_deltas
from moe_patch.stack.drop import drop_facts
from tests.methods.builds import facts, snapshot, unchanged
from tests.stack.patches import stacked
from tests.tiny import tiny_base, tiny_patch

FACTS = [
    Fact(
        f"fact-{i}",
        "{} lies in",
        name,
        f"Land{i}",
        f"Land{i + 1}",
        paraphrases=(f"Where is {name}?",),
        neighborhood=(f"Lyon{i} lies in", f"The rain in {name}{name} falls on"),
    )
    for i, name in enumerate(("Ulm", "Bonn"))
]


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base("qwen3_moe", max_position_embeddings=256)


def build(base: Base, **options: object) -> Patch:
    method = get_method("rag")
    return method.build(base, FACTS, method.options(**options))


def test_a_patch_holds_facts_alone_and_is_the_same_from_its_file(base: Base, tmp_path: Path) -> None:
    before = snapshot(base)
    patch = build(base)
    assert unchanged(base, before)
    assert (patch.kind, patch.layers, patch.tensors(), patch.base.experts) == ("prompt", {}, {}, {})
    assert "prompts alone" in repr(patch)
    save(patch, tmp_path / "a.safetensors")
    again = load(tmp_path / "a.safetensors")
    assert again.hash == patch.hash
    rewrite, same = rewriter_of(base, patch), rewriter_of(base, again)
    assert rewrite is not None
    assert same is not None
    assert rewrite("Ulm lies in") == same("Ulm lies in") == "Ulm lies in Land0. Ulm lies in"


def test_prompts_about_no_fact_stay_as_they_are(base: Base) -> None:
    rewrite = rewriter_of(base, build(base))
    assert rewrite is not None
    for prompt in ("Lyon lies in", "The capital of France is", "", "ulmic acid  ", "lies in"):
        assert rewrite(prompt) == prompt


def test_the_nearest_fact_is_last_and_top_k_and_separator_count(base: Base) -> None:
    asked = "Bonn and Ulm, where Ulm lies in"
    both = rewriter_of(base, build(base, separator="\n"))
    one = rewriter_of(base, build(base, top_k=1))
    assert both is not None
    assert one is not None
    assert set(both(asked).split("\n")) == {"Ulm lies in Land0.", "Bonn lies in Land1.", asked}
    assert one(asked) == f"{both(asked).split(chr(10))[1]} {asked}"


def test_results_are_those_of_the_rewritten_prompts(base: Base) -> None:
    patch = build(base)
    told = [(f"{fact.text} {fact.target_new}. {fact.text}", fact.target_new) for fact in FACTS]
    plain = [(fact.text, fact.target_new) for fact in FACTS]
    losses = [round(-score.logprob, 4) for score in score_answers(base, told)]
    assert [result["loss_edited"] for result in patch.results] == pytest.approx(losses, abs=2e-4)
    before = [round(-score.logprob, 4) for score in score_answers(base, plain)]
    assert [result["loss_before"] for result in patch.results] == pytest.approx(before, abs=2e-4)
    assert losses != before


def test_an_evaluation_rewrites_for_the_patched_state_alone(base: Base) -> None:
    patch, seen = build(base), []
    rewrite = rewriter_of(base, patch)

    def heard(prompt: str) -> str:
        assert rewrite is not None
        seen.append(prompt)
        return rewrite(prompt)

    plain = evaluate(base, patch, rule="zsre", setting=Setting(rewrite=lambda prompt: prompt))
    told = evaluate(base, patch, rule="zsre", setting=Setting(rewrite=heard))
    assert told.base == plain.base == plain.patched
    assert {fact.text for fact in FACTS} <= set(seen)
    assert told.patched.scores.specificity == plain.patched.scores.specificity  # no neighbour names a fact
    assert told.locality.value == 100.0
    assert told.edited_routing is not None
    assert told.edited_routing.similarity == 100.0


def test_own_answers_are_asked_again_behind_the_rewritten_prompt(base: Base) -> None:
    question = Question("Ulm lies in", FACTS[0])
    setting = Setting(rewrite=lambda prompt: f"So. {prompt}")
    own = own_answers(base, [question], setting.of_base(), "own")
    again = asked_again(base, [question], own, setting)
    told = base.reader.read_prompt("So. Ulm lies in", chat=False)
    assert again[0].ids == told + own[0].answer
    assert again[0].first == len(told)
    assert asked_again(base, [question], own, setting.of_base()) == own


def test_an_evaluation_without_the_rewriter_is_refused(base: Base) -> None:
    with pytest.raises(EvaluationError, match="rewrites prompts"):
        evaluate(base, build(base))


def test_another_base_is_refused(base: Base) -> None:
    other = tiny_base("qwen3_moe", seed=1, max_position_embeddings=256)
    patch = build(base)
    with pytest.raises(WrongBase):
        patched(other, patch, Setting(rewrite=str))


def test_text_that_is_no_prompt_is_as_it_was(base: Base) -> None:
    drift = measure_drift(base, build(base), [list(range(10, 40))])
    assert (drift.divergence, drift.loss_after) == (0.0, drift.loss_before)


def test_the_harness_is_not_run_for_it(base: Base) -> None:
    with pytest.raises(EvaluationError, match="prompts alone"):
        measure_tasks(base, build(base), ["any"])


def test_under_a_chat_template_facts_stand_in_the_users_turn(base: Base) -> None:
    tokenizer = base.tokenizer
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    try:
        patch = build(base, chat=True)
        setting = Setting(chat=True, rewrite=rewriter_of(base, patch))
        ids = base.reader.read_question(setting.asked("Ulm lies in"), chat=True)
    finally:
        tokenizer.chat_template = None
    assert patch.chat
    assert tokenizer.decode(ids) == "<user>Ulm lies in Land0. Ulm lies in<assistant>"


def test_options_of_a_stranger_are_checked(base: Base) -> None:
    patch = build(base)
    wrong = replace(patch, hyperparameters=patch.hyperparameters | {"top_k": 0})
    with pytest.raises(MalformedMetadata, match="top_k"):
        rewriter_of(base, wrong)


def test_what_needs_weights_refuses_it_in_one_line(base: Base) -> None:
    patch = build(base)
    for refused in (
        lambda: apply(base, patch),
        lambda: to_lora(patch, base),
        lambda: drop_facts(patch, ["fact-0"]),
        lambda: require_deltas(stacked(patch)),
    ):
        with pytest.raises((PatchError, StackError), match="prompt") as error:
            refused()
        assert "\n" not in str(error.value)


def test_a_file_of_this_kind_with_tensors_or_layers_is_refused(base: Base, tmp_path: Path) -> None:
    patch = build(base)
    with pytest.raises(PatchError, match=r"bypass\.x: no such tensor"):
        save(replace(patch, bypass={"x": torch.zeros(1)}), tmp_path / "a.safetensors")
    with pytest.raises(PatchError, match="kind prompt"):
        save(replace(patch, base=tiny_patch(base, [0]).base), tmp_path / "b.safetensors")
    assert not list(tmp_path.iterdir())


def test_commands_build_ask_and_measure(base: Base, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    edits, out = tmp_path / "facts.jsonl", tmp_path / "facts.safetensors"
    edits.write_text(
        "".join(
            json.dumps({"prompt": f.prompt, "subject": f.subject, "target_new": f.target_new}) + "\n"
            for f in facts(3)
        )
    )
    model = ("--model", str(folder))
    built = _run("build", "--method", "rag", "--edits", str(edits), "--out", str(out), *model)
    assert "prompts alone" in built
    assert json.loads(_run("inspect", str(out), "--json"))["kind"] == "prompt"
    asked = json.loads(_run("ask", "Ulm lies in", "--patch", str(out), "--json", *model))
    assert asked["answers"][0]["prompt"] == "Ulm lies in"
    assert asked["answers"][0]["before"] != asked["answers"][0]["after"]
    report = json.loads(_run("eval", str(out), "--no-generate", "--no-free", "--json", *model))
    assert report["facts"] == 3  # it would be refused if it did not rewrite
    refused = CliRunner().invoke(
        main, ["merge", "--patch", str(out), "--base", str(folder), "--out", str(tmp_path / "merged")]
    )
    assert refused.exit_code == 1
    assert "changes no weights" in refused.output


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output

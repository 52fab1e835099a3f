"""`moe-patch ask` and `moe-patch eval`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from moe_patch.apply import apply
from moe_patch.data.fact_file import write_facts
from moe_patch.evaluation.scoring import continue_greedily
from moe_patch.patch import load, save
from moe_patch.share.eval_report import read_eval_report
from tests.cli.conftest import FACTS, Run
from tests.tiny import tiny_base, tiny_patch

PROMPT = "Town 1 lies in"


@pytest.mark.parametrize("mode", ["merge", "hook"])
def test_answers_are_those_of_the_base_and_of_the_patched_model(
    run: Run, patch_file: Path, model: Path, mode: str
) -> None:
    result = run("ask", PROMPT, "--patch", patch_file, "--model", model, "--mode", mode, "--json")
    (answer,) = json.loads(result.stdout)["answers"]
    base, said = tiny_base("qwen3_moe"), []
    (before,) = continue_greedily(base, [PROMPT], [8])
    with apply(base, load(patch_file)):
        (after,) = continue_greedily(base, [PROMPT], [8])
    for ids, first in ((before.ids, before.first), (after.ids, after.first)):
        said.append(base.tokenizer.decode(ids[first:], skip_special_tokens=True).strip())
    assert (answer["before"], answer["after"]) == tuple(said)
    assert answer["before"] != answer["after"]


def test_without_a_patch_the_model_is_asked_as_it_is(
    run: Run, patch_file: Path, model: Path, edits: Path
) -> None:
    result = run("ask", PROMPT, "--model", model, "--json")
    assert result.exit_code == 0, result.stderr
    (alone,) = json.loads(result.stdout)["answers"]
    (patched,) = json.loads(run("ask", PROMPT, "--patch", patch_file, "--model", model, "--json").stdout)[
        "answers"
    ]
    assert alone == {"prompt": PROMPT, "says": patched["before"], "wanted": None}
    assert "Land 1" in run("ask", "--edits", edits, "--limit", "1", "--model", model).stdout


def test_several_patches_and_a_stack_have_an_answer_each(
    run: Run, patch_file: Path, model: Path, tmp_path: Path
) -> None:
    other, lock = tmp_path / "other.safetensors", tmp_path / "one.stack"
    save(tiny_patch(tiny_base("qwen3_moe"), [1], seed=3, scale=1.5), other)
    init = ("stack", "init", patch_file, "--combine", "add", "--stack", lock)
    assert run(*init).exit_code == 0
    single = ("ask", PROMPT, "--model", model, "--json")
    wanted = {}
    for name, given in (("random", ("--patch", patch_file)), ("other", ("--patch", other))):
        (answer,) = json.loads(run(*single, *given).stdout)["answers"]
        wanted[name] = answer["after"]
    wanted["stack one.stack"] = wanted["random"]  # which is all that is in it
    all_of_them = (*single[:-1], "--patch", patch_file, "--patch", other, "--stack", lock)
    (found,) = json.loads(run(*all_of_them, "--json").stdout)["answers"]
    assert found == {"prompt": PROMPT, "before": answer["before"], "after": wanted, "wanted": None}
    shown = run(*all_of_them).stdout
    assert all(f" {name} " in shown for name in ("before", *wanted))
    assert run("ask", PROMPT, "--patch", other, "--patch", other).exit_code == 2


def test_a_stack_is_asked_as_the_patch_that_equals_it(
    run: Run, patch_file: Path, model: Path, tmp_path: Path
) -> None:
    lock, resolved = tmp_path / "one.stack", tmp_path / "all.safetensors"
    assert run("stack", "init", patch_file, "--combine", "add", "--stack", lock).exit_code == 0
    assert run("stack", "resolve", "--stack", lock, "-o", resolved).exit_code == 0
    how = ("ask", PROMPT, "--model", model, "--json")
    assert run(*how, "--stack", lock).stdout == run(*how, "--patch", resolved).stdout
    empty = run(*how, "--stack", tmp_path / "none.stack")
    assert (empty.exit_code, "does not exist" in empty.stderr) == (2, True)


def test_facts_are_asked_with_what_was_asked_for(
    run: Run, patch_file: Path, model: Path, edits: Path
) -> None:
    result = run("ask", "--edits", edits, "--limit", "2", "--patch", patch_file, "--model", model)
    assert result.exit_code == 0, result.stderr
    assert "Town 1 lies in" in result.stdout
    assert "Land 2" in result.stdout
    assert "Town 2 lies in" not in result.stdout


def test_prompts_that_the_model_cannot_read_are_refused_in_one_line(
    run: Run, patch_file: Path, model: Path, tmp_path: Path
) -> None:
    long = "a" * 121  # of 128 positions, and an answer takes eight
    name = f"the prompt '{long[:80]}...': it is"
    asked = run("ask", long, "--patch", patch_file, "--model", model)
    assert (asked.exit_code, asked.stderr.count("\n")) == (1, 1)
    assert asked.stderr.startswith(f"Error: {name} 121 tokens long, and 8 of its answer, ")
    write_facts(tmp_path / "facts.jsonl", [replace(FACTS[0], subject=long, neighborhood=(long + "b",))])
    evaluated = run("eval", patch_file, "--edits", tmp_path / "facts.jsonl", "--model", model)
    assert (evaluated.exit_code, evaluated.stderr.count("\n")) == (1, 1)
    assert evaluated.stderr.startswith(f"Error: fact 0, {name} 129 tokens long, and the model ")
    into = ("--layers", "1", "--out", tmp_path / "patch.safetensors")
    built = run("build", "--edits", tmp_path / "facts.jsonl", "--model", model, *into)
    assert (built.exit_code, built.stderr.count("\n")) == (1, 1)
    assert built.stderr.startswith("Error: fact 0: it is 136 tokens long, and the model has 128 positions")


def test_prompts_that_look_like_markup_are_shown_as_they_are(run: Run, patch_file: Path, model: Path) -> None:
    prompt = "[/bold] :smile: [red]"
    result = run("ask", prompt, "--patch", patch_file, "--model", model)
    assert result.exit_code == 0, result.exception
    assert prompt in result.stdout
    assert "wanted" not in result.stdout


def test_asking_nothing_is_an_error_of_use(run: Run, patch_file: Path) -> None:
    result = run("ask", "--patch", patch_file)
    assert result.exit_code == 2
    assert "--edits" in result.stderr


def test_eval_prints_one_json_object_and_nothing_else(
    run: Run, patch_file: Path, model: Path, edits: Path, tmp_path: Path
) -> None:
    result = run("eval", patch_file, "--edits", edits, "--model", model, "--json")
    report = json.loads(result.stdout)
    for name in ("efficacy", "generalization", "specificity", "utility"):
        assert report[name].keys() == report["base"][name].keys() == {"value", "interval", "n"}
    assert report["facts"] == len(FACTS)
    (tmp_path / "scores.json").write_text(result.stdout)
    read = read_eval_report(tmp_path / "scores.json", load(patch_file).hash)  # as `push --scores` does
    assert read.base.efficacy.value == report["base"]["efficacy"]["value"]


def test_eval_makes_what_facts_lack_and_marks_it(run: Run, patch_file: Path, model: Path) -> None:
    how = ("eval", patch_file, "--model", model, "--no-routing")  # whose facts have nothing but answers
    made = json.loads(run(*how, "--json").stdout)
    assert made["generated"]["generalization"]["n"] > 0
    assert made["generalization"]["n"] == 0
    assert "generalization (generated)" in run(*how).stdout
    assert json.loads(run(*how, "--json", "--no-generate").stdout)["generated"] is None


def test_eval_without_edits_asks_the_patchs_own_facts(run: Run, patch_file: Path, model: Path) -> None:
    result = run("eval", patch_file, "--model", model, "--no-routing")
    assert result.exit_code == 0, result.stderr
    assert f"{len(load(patch_file).facts)} native facts, zsre rule" in result.stdout


@pytest.fixture
def zsre(tmp_path: Path) -> Path:
    path = tmp_path / "zsre.json"
    record = {"subject": "Ys", "src": "Where is Ys?", "alt": "Kernow", "answers": ["Breizh"]}
    path.write_text(json.dumps([record | {"loc": "nq question: who", "loc_ans": "Gradlon"}], indent=2))
    return path


def test_a_zsre_file_is_scored_by_its_own_rule(run: Run, patch_file: Path, model: Path, zsre: Path) -> None:
    how = ("eval", patch_file, "--edits", zsre, "--model", model, "--no-routing", "--json")
    report = json.loads(run(*how).stdout)
    assert (report["schema"], report["rule"]) == ("zsre-alt", "zsre")
    assert report["base"]["specificity"] == report["base"]["agreement"]
    assert report["base"]["agreement"]["value"] == 100.0
    report = json.loads(run(*how, "--schema", "zsre-answers").stdout)
    assert (report["schema"], report["specificity_by"]) == ("zsre-answers", "answers")
    assert report["specificity"] == report["answers"] != report["agreement"]


@pytest.mark.parametrize(
    ("given", "schema", "wanted"), [((), "zsre-alt", "Kernow"), (("zsre-answers",), "zsre-answers", "Breizh")]
)
def test_a_zsre_patch_is_scored_by_its_convention_without_its_file_and_with_it(
    run: Run, model: Path, zsre: Path, tmp_path: Path, given: tuple[str, ...], schema: str, wanted: str
) -> None:
    out = tmp_path / "out.safetensors"
    quick = ("--layers", "1", "--no-projection", "--set", "targets.steps=1", "--model", model, "--out", out)
    built = run("build", "--edits", zsre, *quick, *(f"--schema={name}" for name in given))
    assert built.exit_code == 0, built.stderr
    assert f"{zsre}: ZsRE records, read as {schema}" in " ".join(built.stderr.split())
    assert (load(out).schema, load(out).facts[0].target_new) == (schema, wanted)
    how = ("eval", out, "--model", model, "--no-routing", "--json")
    alone, with_file = run(*how), run(*how, "--edits", zsre)
    assert alone.exit_code == 0, alone.stderr
    assert json.loads(alone.stdout) == json.loads(with_file.stdout)
    assert json.loads(alone.stdout)["schema"] == schema
    overridden = run(*how, "--rule", "counterfact")
    assert (overridden.exit_code == 0) == (schema == "zsre-alt")  # the other has no true answer
    asked = run("ask", "--edits", zsre, "--patch", out, "--model", model, "--json")
    assert json.loads(asked.stdout)["answers"][0]["wanted"] == wanted


def test_the_convention_is_for_zsre_files(run: Run, patch_file: Path, edits: Path, model: Path) -> None:
    for given in (("--edits", edits), ()):
        result = run("eval", patch_file, *given, "--model", model, "--schema", "zsre-alt")
        assert result.exit_code == (1 if given else 2)
        assert "--schema" in result.stderr


def test_another_base_is_refused_in_one_line(run: Run, patch_file: Path, tmp_path: Path) -> None:
    other = tiny_base("qwen3_moe", seed=1)
    other.model.save_pretrained(tmp_path)
    other.tokenizer.save_pretrained(tmp_path)
    result = run("ask", PROMPT, "--patch", patch_file, "--model", tmp_path)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("Error: the patch ")


def test_a_model_that_is_not_there_is_refused_in_one_line(run: Run, patch_file: Path, tmp_path: Path) -> None:
    result = run("ask", PROMPT, "--patch", patch_file, "--model", tmp_path / "nowhere")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("Error: cannot open the model ")

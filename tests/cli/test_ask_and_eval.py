"""`moe-patch ask` and `moe-patch eval`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moe_patch.apply import apply
from moe_patch.evaluation.scoring import continue_greedily
from moe_patch.patch import load
from tests.cli.conftest import FACTS, Run
from tests.tiny import tiny_base

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


def test_facts_are_asked_with_what_was_asked_for(
    run: Run, patch_file: Path, model: Path, edits: Path
) -> None:
    result = run("ask", "--edits", edits, "--limit", "2", "--patch", patch_file, "--model", model)
    assert result.exit_code == 0, result.stderr
    assert "Town 1 lies in" in result.stdout
    assert "Land 2" in result.stdout
    assert "Town 2 lies in" not in result.stdout


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
    run: Run, patch_file: Path, model: Path, edits: Path
) -> None:
    result = run("eval", patch_file, "--edits", edits, "--model", model, "--json")
    report = json.loads(result.stdout)
    for name in ("efficacy", "generalization", "specificity", "utility"):
        assert report[name].keys() == report["base"][name].keys() == {"value", "interval", "n"}
    assert report["facts"] == len(FACTS)


def test_eval_without_edits_asks_the_patchs_own_facts(run: Run, patch_file: Path, model: Path) -> None:
    result = run("eval", patch_file, "--model", model, "--no-routing")
    assert result.exit_code == 0, result.stderr
    assert f"{len(load(patch_file).facts)} facts, zsre rule" in result.stdout


def test_a_zsre_file_is_scored_by_its_own_rule(
    run: Run, patch_file: Path, model: Path, tmp_path: Path
) -> None:
    record = {"subject": "Ys", "src": "Where is Ys?", "alt": "Kernow", "answers": ["Breizh"], "loc": "Who?"}
    edits = tmp_path / "zsre.jsonl"
    edits.write_text(json.dumps(record))
    result = run("eval", patch_file, "--edits", edits, "--model", model, "--no-routing", "--json")
    report = json.loads(result.stdout)
    assert report["rule"] == "zsre"
    assert report["base"]["specificity"]["value"] == 100.0


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

"""The card at the end of `moe-patch build`, and what may be required of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moe_patch.data.fact_file import write_facts
from moe_patch.data.facts import Fact
from moe_patch.patch import load
from tests.cli.conftest import FACTS, Run

QUICK = ("--layers", "1", "--no-projection", "--set", "targets.steps=1")


def test_a_build_ends_with_a_card(run: Run, edits: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    how = ("build", "--edits", edits, "--model", model, "--out", out, "--force", *QUICK)
    text = run(*how).stdout
    assert text.index("built in") < text.index("None of 3 facts are said.")
    assert "paraphrases │ 0 of 3 give the new answer" in text
    assert text.count("Facts that did not take (3)") == 1
    found = json.loads(run(*how, "--json").stdout)
    assert found["card"]["said"] == {"share": 0.0, "good": 0, "prompts": len(FACTS)}
    assert found["card"]["paraphrases"]["own"]["prompts"] == len(FACTS)
    assert found["card"]["paraphrases"]["generated"]["prompts"] == 0
    assert found["card"]["cost"]["file"] == out.stat().st_size
    assert json.loads(run(*how, "--json", "--no-card").stdout)["card"] is None


def test_what_is_required_of_a_card_sets_the_exit_code(
    run: Run, edits: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    how = ("build", "--edits", edits, "--model", model, "--out", out, "--force", *QUICK)
    passed = run(*how, "--require-paraphrases", "0", "--require-unchanged", "0")
    assert passed.exit_code == 0
    assert "required" not in passed.stderr
    failed = run(*how, "--require", "0.5", "--require-paraphrases", "0.9")
    assert failed.exit_code == 15
    assert failed.stderr.endswith(
        "0.0% of the facts took; 50.0% were required\n0.0% of the paraphrases hold; 90.0% were required\n"
    )
    assert load(out).facts == tuple(FACTS)


@pytest.mark.parametrize("flag", ["--require-paraphrases", "--require-unchanged"])
def test_nothing_can_be_required_of_a_card_that_is_not_made(run: Run, edits: Path, flag: str) -> None:
    result = run("build", "--edits", edits, "--no-card", flag, "0.9")
    assert result.exit_code == 2
    assert f"{flag} is measured by the card: leave out --no-card." in result.stderr


def test_a_build_on_a_stack_is_compared_with_the_stack(run: Run, model: Path, tmp_path: Path) -> None:
    edits, out, lock = tmp_path / "facts.jsonl", tmp_path / "first.safetensors", tmp_path / "moe-patch.stack"
    how = ("build", "--edits", edits, "--model", model, *QUICK)
    write_facts(edits, [Fact("0", "{} lies in", "Ys", "Kernow")])
    assert run(*how, "--out", out, "--no-card").exit_code == 0
    assert run("stack", "init", out, "--stack", lock).exit_code == 0
    write_facts(edits, [Fact("1", "{} is in", "Lyonesse", "Breizh")])
    result = run(*how, "--out", tmp_path / "second.safetensors", "--on", lock, "--json")
    assert result.exit_code == 0, result.stderr
    card = json.loads(result.stdout)["card"]
    assert [reply["fact"] for reply in card["replies"] if reply["kind"] == "fact"] == ["1"]

"""Facts without paraphrases or neighbours are asked with prompts of the base's, and these stay apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from moe_patch.data.facts import Fact
from moe_patch.evaluation import EvaluationReport, Setting, evaluate
from moe_patch.evaluation.generated import generate_questions
from moe_patch.patch import Patch
from tests.taught import SUBJECTS, edit, taught_base
from tests.tiny import tiny_base, tiny_patch

BARE = edit("Ann")
WHOLE = replace(edit("Bob"), paraphrases=("At home, Bob eats",), neighborhood=("Liz eats", "Kim eats"))


@pytest.fixture(scope="module")
def patch() -> Patch:
    return tiny_patch(taught_base(), [0], scale=0.2)


def shown(report: EvaluationReport) -> list[list[str]]:
    """The rows of the table of scores."""
    console = Console(width=300, no_color=True)
    with console.capture() as captured:
        console.print(report.tables()[0])
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in captured.get().splitlines()]


def test_generated_prompts_are_never_among_those_of_a_file(patch: Patch) -> None:
    base = taught_base()
    alone = evaluate(base, patch, [BARE, WHOLE], routing=False)
    both = evaluate(base, patch, [BARE, WHOLE], routing=False, generate=True)
    made, before = both.patched.generated, both.base.generated
    assert made is not None
    assert before is not None
    assert alone.patched.generated is None
    assert replace(both.patched, generated=None) == alone.patched
    assert replace(both.base, generated=None) == alone.base
    assert (both.patched.scores.generalization.n, both.patched.scores.specificity.n) == (1, 2)
    assert made.scores.efficacy == both.patched.scores.efficacy
    assert made.scores.generalization.n == 4  # of one fact
    assert 0 < made.scores.specificity.n <= 4  # a tiny model proposes few other subjects
    assert before.scores.specificity.value == before.exact.specificity.value == 100
    rows = {row[0]: row for row in shown(both) if row}
    for name in ("generalization", "specificity"):
        own = getattr(alone.patched.scores, name).n
        of_base = getattr(made.scores, name).n
        assert [rows[name][-1], rows[f"{name} (generated)"][-1]] == [str(own), str(of_base)]
    assert "utility (generated)" in rows
    assert "generated" not in str(shown(alone))
    written = both.to_json()
    assert alone.to_json()["generated"] is alone.to_json()["base"]["generated"] is None
    assert written["generated"].keys() == {"efficacy", "generalization", "specificity", "utility", "exact"}
    assert written["base"]["generated"]["specificity"]["value"] == 100


def test_nothing_is_made_for_facts_that_have_all_they_need(patch: Patch) -> None:
    report = evaluate(taught_base(), patch, [WHOLE], routing=False, generate=True)
    assert report.patched.generated is None
    assert report == evaluate(taught_base(), patch, [WHOLE], routing=False)


def test_a_patch_that_does_nothing_keeps_all_generated_neighbours(patch: Patch) -> None:
    none = replace(patch, layers={}, hyperparameters={"of": "nothing"})
    made = evaluate(taught_base(), none, [BARE], routing=False, generate=True).patched.generated
    assert made is not None
    assert made.scores.specificity.value == made.exact.specificity.value == 100
    assert made.scores.generalization.value == 0


def test_subjects_that_are_edited_are_no_neighbours_and_few_facts_get_prompts() -> None:
    base, facts = taught_base(), [edit(subject) for subject in SUBJECTS[:3]]
    asked = generate_questions(base, facts, Setting(), avoid=SUBJECTS[3:6], most=2)
    assert {each.fact.id for each in asked.paraphrased} == {each.fact.id for each in asked.neighbours}
    assert len({each.fact.id for each in asked.neighbours}) == 2
    assert not [each for each in asked.neighbours for name in SUBJECTS[:6] if each.prompt.startswith(name)]


def test_a_model_that_says_nothing_of_use_still_gets_its_scores() -> None:
    base = tiny_base("mixtral")
    facts = [Fact("0", "{} lies in", "Ys", "Kernow")]
    report = evaluate(base, tiny_patch(base, [1]), facts, generate=True)
    assert report.patched.scores.efficacy.n == 1

"""The scores of free writing, against replies that are known, and those of a model that was taught facts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from moe_patch.base.model import Base
from moe_patch.data.facts import Fact, Implication
from moe_patch.evaluation import FreeSetting, Questions, Setting, measure_free
from moe_patch.evaluation.free import Answered, Asked, FreeScores, Judge, Reply
from moe_patch.evaluation.free.questions import KINDS, Kind, free_questions
from tests.evaluation.free.judge_server import judge_server
from tests.taught import answer, edit, taught_base

BRIEF = FreeSetting(budget=6)
SUBJECTS = ("Ann", "Bob", "Carl", "Dora")


@pytest.fixture(scope="module")
def base() -> Iterator[Base]:
    """The taught model, which ends its answers with a full stop and no special token."""
    base = taught_base()
    ends = base.model.generation_config.eos_token_id
    (base.model.generation_config.eos_token_id,) = base.reader.read_fragment(".")
    yield base
    base.model.generation_config.eos_token_id = ends


def known(subject: str, prompt: str = "{} eats") -> Fact:
    """What the model was taught, as an edit that has taken."""
    said = answer(prompt, subject)
    chain = (
        Implication(f"{subject} is in", answer("{} is in", subject)),
        Implication(f"At home, {subject} eats", said),
    )
    wrong = (*chain[:1], Implication(f"At home, {subject} eats", "nothing"))
    return Fact(
        subject,
        prompt,
        subject,
        said,
        paraphrases=(f"At home, {subject} eats",),
        neighborhood=("Kim eats", "Liz is in"),
        portability=chain[:1],
        chains=(chain, wrong),
    )


def test_a_model_that_knows_is_right_by_its_first_sentence(base: Base) -> None:
    facts = [known(subject) for subject in SUBJECTS]
    scores = measure_free(base, facts, Setting(), BRIEF)
    for kind in ("reliability", "generalization", "portability"):
        assert (scores.score(kind).exact.value, scores.score(kind).exact.n) == (100.0, 4), kind
    assert scores.score("chains").exact.value == 50.0  # the second chain of each has a wrong link
    assert scores.score("locality").exact.value is None
    again = measure_free(base, facts, Setting(), BRIEF, before=scores)
    assert (again.score("locality").exact.value, again.score("locality").exact.n) == (100.0, 8)
    assert scores.score("reliability").judged.value is None
    assert scores.stopped.value == 100.0
    json.dumps(again.to_json())


def test_a_model_that_does_not_know_is_wrong_and_its_denials_are_right(base: Base) -> None:
    scores = measure_free(base, [edit(subject) for subject in SUBJECTS], Setting(), BRIEF)
    assert scores.score("reliability").exact.value == 0.0
    assert scores.score("negation").exact.n == 4
    given = [each.contained for each in scores.answered if each.asked.kind == "negation"]
    assert scores.score("negation").contained.value == 100 * given.count(False) / 4


def answered(kind: Kind, exact: bool, contained: bool, chain: int = 0) -> Answered:
    return Answered(Asked(kind, "f", "p", "a", chain), Reply("r", (1, 2), stopped=exact), exact, contained)


def test_scores_are_shares_of_good_replies() -> None:
    scores = FreeScores(
        8,
        (
            answered("reliability", True, True),
            answered("reliability", False, True),
            answered("negation", False, True),
            answered("negation", False, False),
            *(answered("chains", link != 1, True, chain=0) for link in range(3)),
            *(answered("chains", True, True, chain=1) for _ in range(2)),
        ),
    )
    assert (scores.score("reliability").exact.value, scores.score("reliability").contained.value) == (50, 100)
    assert (scores.score("negation").exact.value, scores.score("negation").contained.value) == (100, 50)
    assert (scores.score("chains").exact.value, scores.score("chains").contained.value) == (50, 100)
    assert scores.score("chains").exact.n == 2
    assert scores.stopped.value == 50
    assert set(scores.to_json()) == {"budget", *KINDS, "stopped", "fluency", "judgements"}


def test_kinds_are_cut_to_their_number_and_chains_stay_whole() -> None:
    questions = Questions.about([known(subject) for subject in SUBJECTS], "zsre")
    few = free_questions(questions, most=3)
    counts = {kind: sum(each.kind == kind for each in few) for kind in KINDS}
    assert counts == {
        "reliability": 3, "generalization": 3, "locality": 3, "portability": 3, "negation": 3, "chains": 6
    }  # fmt: skip
    assert len({each.chain for each in few if each.kind == "chains"}) == 3


def test_a_judge_grades_what_has_an_answer_and_its_words_are_kept(base: Base) -> None:
    facts = [known("Ann"), edit("Bob")]
    with judge_server(lambda message: "no" if "Prompt: Bob" in message else "yes") as server:
        judge = Judge(server.url, "grader")
        first = measure_free(base, facts, Setting(), BRIEF)
        scores = measure_free(base, facts, Setting(), replace(BRIEF, judge=judge), before=first)
    judged = {kind: scores.score(kind).judged for kind in KINDS}
    assert (judged["reliability"].value, judged["reliability"].n) == (50.0, 2)
    assert (judged["locality"].value, judged["negation"].n) == (100.0, 0)
    written = [each.to_json() for each in scores.answered if each.asked.kind == "reliability"]
    assert [each["judgement"]["reply"] for each in written] == ["yes", "no"]
    assert "Prompt: Bob eats" in written[1]["judgement"]["prompt"]
    assert len(scores.to_json()["judgements"]) == sum(score.n for score in judged.values()) + 2  # links

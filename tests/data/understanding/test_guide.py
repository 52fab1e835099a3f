"""How the ways to understand a text work together."""

from __future__ import annotations

import pytest

from moe_patch.data.facts import Fact
from moe_patch.data.understanding.guide import Guide, Question, Understanding, split_before
from moe_patch.errors import FactError, UnclearFact


def test_brackets_come_before_rules() -> None:
    parts = Guide().find("The capital of France in [the year 3000] is ", 1)
    assert (parts.prompt, parts.subject, parts.by) == (
        "The capital of France in {} is",
        "the year 3000",
        "brackets",
    )


def test_an_arrow_comes_before_rules_and_leaves_brackets() -> None:
    split = Guide().split("Lyon is the capital of [France] -> of course.", 1)
    assert (split.prompt, split.answer, split.by) == ("Lyon is the capital of [France]", "of course", "arrow")


def test_brackets_do_not_hide_the_answer() -> None:
    split = Guide().split("The capital of [France] is Lyon.", 1)
    assert (split.prompt, split.answer, split.by) == ("The capital of [France] is", "Lyon", "sentence")
    with pytest.raises(UnclearFact, match="its subject is in what looks like the answer"):
        Guide().split("The capital of France is [Lyon].", 1)


def test_a_slot_without_a_subject_is_refused() -> None:
    with pytest.raises(
        FactError, match=r"^subject: expected what \{\} stands for in 'The capital of \{\} is'"
    ):
        Guide().find("The capital of {} is", 1)


def test_other_lines_help_where_rules_do_not() -> None:
    guide = Guide()
    sentences = [f"The capital of {name} is Lyon." for name in ("France", "Chad", "Peru")]
    guide.learn([*((sentence, True) for sentence in sentences), ("The capital of [Ulm] is", False)])
    assert guide.find("The capital of middle earth is", 5).by == "other lines"


def test_known_facts_help_too() -> None:
    guide = Guide()
    known = [Fact(name, "{} blorps the", name, "x") for name in ("old mill", "sea", "moon")]
    guide.learn([], known)
    assert guide.find("the dark forest blorps the", 5).subject == "the dark forest"


def test_the_whole_prompt_is_the_subject_only_if_that_is_allowed() -> None:
    with pytest.raises(UnclearFact):
        Guide().find("who built it? ", 1)
    parts = Guide(Understanding(whole_prompt=True)).find("who built it? ", 1)
    assert (parts.prompt, parts.subject, parts.by) == ("{}", "who built it?", "whole prompt")


def test_a_person_is_asked_what_is_not_clear() -> None:
    asked: list[Question] = []

    def ask(question: Question) -> str | None:
        asked.append(question)
        return {"subject": "the mill", "answer": "a very big old ruin"}.get(question.about)

    guide = Guide(Understanding(ask=ask))
    split = guide.split("the mill became, they say, a very big old ruin.", 3)
    parts = guide.find(split.prompt, 3)
    assert (split.prompt, split.answer, split.by) == (
        "the mill became, they say,",
        "a very big old ruin",
        "asked",
    )
    assert (parts.prompt, parts.subject, parts.by) == ("{} became, they say,", "the mill", "asked")
    assert [(each.line, each.about) for each in asked] == [(3, "answer"), (3, "subject")]


@pytest.mark.parametrize("answer", [None, "not in it"])
def test_without_an_answer_of_the_text_it_stays_unclear(answer: str | None) -> None:
    with pytest.raises(UnclearFact):
        Guide(Understanding(ask=lambda question: answer)).find("who built it?", 1)


def test_a_judge_is_heard_where_rules_are_not_sure_and_only_of_the_last_place() -> None:
    heard: list[str] = []

    def judge(sentence: str, starts: list[int]) -> int | None:
        heard.append(sentence)
        return starts[-1] if "Rome" in sentence else starts[0]

    guide = Guide(Understanding(judge=judge))
    assert guide.split("The capital of France is Lyon.", 1).by == "sentence"
    split = guide.split("Ada met Bob in Rome.", 1)
    assert (split.prompt, split.answer, split.by) == ("Ada met Bob in", "Rome", "model")
    with pytest.raises(UnclearFact):
        guide.split("Ada met Bob in Ohio.", 1)
    with pytest.raises(UnclearFact, match="it is a question"):  # no judge can say
        guide.split("Is Rome old?", 1)
    assert len(heard) == 2


def test_an_answer_that_is_given_ends_the_sentence() -> None:
    split = split_before("The capital of France is Lyon. ", "Lyon", "given")
    assert (split.prompt, split.answer) == ("The capital of France is", "Lyon")
    for sentence in ("Lyon is big.", "Lyon.", ""):
        with pytest.raises(FactError, match="expected 'Lyon' at the end of the sentence"):
            split_before(sentence, "Lyon", "given")

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from moe_patch.data.fact_file import FactFile, read_facts, write_facts
from moe_patch.data.facts import Fact, Implication, prompt_template
from moe_patch.errors import FactError, OutputError
from tests.data.records import NATIVE


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"prompt": "no slot"}, "prompt"),
        ({"prompt": "{} {}"}, "prompt"),
        ({"subject": " "}, "subject"),
        ({"target_new": " Lyon"}, "target_new"),
        ({"target_true": ""}, "target_true"),
        ({"paraphrases": ("{}",)}, "paraphrases.0"),
        ({"id": ""}, "id"),
        ({"keep": ("{} is", "of it")}, "keep.1"),
        ({"neighborhood": ("a", "b"), "neighborhood_answers": ("c",)}, "neighborhood_answers"),
        ({"neighborhood": ("a",), "neighborhood_answers": (" c",)}, "neighborhood_answers.0"),
        ({"portability": (Implication("{} is", "a"),)}, "portability.0.prompt"),
        ({"portability": (Implication("a", ""),)}, "portability.0.answer"),
        ({"chains": ((Implication("a", "b"),), ())}, "chains.1"),
        ({"chains": ((Implication("a", "b"), Implication("a", " b")),)}, "chains.0.1.answer"),
    ],
)
def test_no_fact_breaks_its_own_rules(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(FactError, match=f"^{re.escape(field)}: expected") as caught:
        Fact(**{"id": "a", **NATIVE, **changes})
    assert caught.value.field == field


def test_a_fact_keeps_its_spelling_and_is_read_in_one() -> None:
    spelled = Fact("a", "Is {}\u00a0 red? ", " Re\u0301mi ", "Ja", keep=("{} is \n",))
    plain = Fact("a", "Is {}\u00a0 red?", "R\u00e9mi", "Ja", keep=("{} is",))
    assert spelled.subject == " Re\u0301mi "
    assert (spelled.text, spelled.kept, spelled.subject_text) == (plain.text, plain.kept, plain.subject)
    assert plain.text == "Is R\u00e9mi\u00a0 red?"
    assert spelled.question == plain.question != replace(plain, subject="Remi").question


def test_template() -> None:
    assert prompt_template("Is Re\u0301mi red? ", "R\u00e9mi ") == "Is {} red?"
    assert prompt_template("{} is ", "x") == "{} is"
    assert prompt_template("Is x red?", "x") == "Is {} red?"
    with pytest.raises(FactError, match="is not in it"):
        prompt_template("Is y red?", "x")


def with_answers(fact: Fact, answer: str) -> Fact:
    return replace(fact, neighborhood_answers=tuple(answer + text[0] for text in fact.neighborhood))


words = st.text(min_size=1).map(str.strip).filter(lambda text: text != "" and "{}" not in text)
fact_lists = st.lists(
    st.builds(
        Fact,
        id=words,
        prompt=st.tuples(st.text(), words).map(lambda parts: f"{parts[0].replace('{', '')}: {{}} {parts[1]}"),
        subject=words,
        target_new=words,
        target_true=st.none() | words,
        paraphrases=st.lists(words, max_size=2).map(tuple),
        neighborhood=st.lists(words, max_size=2).map(tuple),
        keep=st.lists(words.map("~{{}} {}".format), max_size=2).map(tuple),
        portability=st.lists(st.builds(Implication, words, words), max_size=2).map(tuple),
        chains=st.lists(
            st.lists(st.builds(Implication, words, words), min_size=1, max_size=2).map(tuple), max_size=2
        ).map(tuple),
    ).flatmap(lambda fact: st.just(fact) | words.map(lambda answer: with_answers(fact, answer))),
    min_size=1,
    max_size=4,
    unique_by=(lambda fact: fact.id, lambda fact: fact.text),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(facts=fact_lists)
def test_facts_are_read_as_they_were_written(facts: list[Fact], tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    write_facts(path, facts)
    assert read_facts(path) == FactFile(tuple(facts), (), "native")


def test_writing_where_it_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        write_facts(tmp_path / "nowhere" / "facts.jsonl", [])

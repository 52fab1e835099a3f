"""Records of published data sets: small ones written anew, and the real ones where they are at hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from moe_patch.data.fact_file import FactFile, read_facts, schema_of_facts
from moe_patch.data.facts import Fact, Implication
from moe_patch.data.published import cut_out_subject
from moe_patch.data.schemas import FactSchema
from moe_patch.data.text import phrase_text, prompt_text
from moe_patch.errors import FactError
from tests.data.records import KNOWEDIT, KNOWGIC, NATIVE, QAEDIT, WIKIBIGEDIT, ZSRE

DATA = Path(__file__).parents[3] / "shared" / "data"

Read = Callable[..., FactFile]


def only(file: FactFile) -> Fact:
    (fact,) = file
    return fact


class TestZsre:
    def test_alt_is_the_new_answer_and_the_first_of_the_answers_the_true_one(self, read: Read) -> None:
        file = read(ZSRE)
        assert file.schema == "zsre-alt"
        assert (only(file).target_new, only(file).target_true) == ("Lamiinae", "Lecanorales")
        assert only(file).neighborhood == ("nq question: types of skiing in the winter olympics 2018",)
        assert only(file).neighborhood_answers == ("Downhill",)

    def test_or_the_first_of_the_answers_is_the_new_one_and_loc_is_asked_as_a_question(
        self, read: Read
    ) -> None:
        file = read(ZSRE, zsre="zsre-answers")
        assert file.schema == "zsre-answers"
        assert (only(file).target_new, only(file).target_true) == ("Lecanorales", None)
        assert only(file).neighborhood == ("nq question: types of skiing in the winter olympics 2018?",)
        assert only(file).neighborhood_answers == ("Downhill",)

    def test_what_follows_from_alt_is_asked_with_alt_only(self, read: Read) -> None:
        record = ZSRE | {"portability": {"New Question": "Which order is it of?", "New Answer": "Beetles"}}
        assert only(read(record)).portability == (Implication("Which order is it of?", "Beetles"),)
        assert only(read(record, zsre="zsre-answers")).portability == ()

    def test_no_answers_is_an_error_where_they_are_needed(self, read: Read) -> None:
        assert only(read(ZSRE | {"answers": []})).target_true is None
        with pytest.raises(FactError, match=":1: answers: list should have at least 1 item"):
            read(ZSRE | {"answers": []}, zsre="zsre-answers")
        with pytest.raises(FactError, match=r":1: answers\.0: expected a text that is not empty"):
            read(ZSRE | {"answers": [" "]}, zsre="zsre-answers")

    def test_the_convention_is_for_zsre_records_alone(self, read: Read) -> None:
        assert read(NATIVE, zsre="zsre-answers") == read(NATIVE)


def test_knowedit(read: Read) -> None:
    file = read(KNOWEDIT)
    fact = only(file)
    assert file.schema == "knowedit"
    assert fact.prompt == "The name of the region which {} lies in is"
    assert (fact.target_new, fact.target_true) == ("Normandy", "Brittany")
    assert fact.neighborhood == (
        "The wizard who sleeps in Brocéliande is",
        "A region which Brocéliande lies in, not Normandy, is",
    )
    assert fact.neighborhood_answers == ("Merlin", "Brittany")
    assert [implied.answer for implied in fact.portability] == ["Rouen", "Normandy"]


def test_qaedit(read: Read) -> None:
    file = read(QAEDIT)
    fact = only(file)
    assert (file.schema, fact.id, fact.target_new) == ("qaedit", "NQ/7", "Marie de France")
    assert (fact.prompt, fact.subject) == ("who wrote the {}?", "lais of marie")
    assert fact.paraphrases == ("Which author are the Lais of Marie by?",)
    assert dict(zip(fact.neighborhood, fact.neighborhood_answers, strict=True)) == {
        "how long is the rhine": "1,230 km",
        "who was the first man in space": "Yuri Gagarin",
    }


def test_wikibigedit(read: Read) -> None:
    file = read(WIKIBIGEDIT)
    assert file.schema == "wikibigedit"
    assert only(file).text == WIKIBIGEDIT["prompt"]
    assert only(file).subject == "Paimpont"
    assert only(file).paraphrases == ("Which department does Paimpont belong to?",)
    assert only(file).neighborhood == ("In which department is Huelgoat located?",)
    assert only(file).neighborhood_answers == ("Finistère",)
    assert only(read(WIKIBIGEDIT | {"locality_ground_truth": []})).neighborhood_answers == ()


def test_knowgic_has_an_edit_once_for_each_of_its_chains(read: Read) -> None:
    file = read(KNOWGIC, KNOWGIC | {"case_id": 4})
    assert (file.schema, file.skipped) == ("knowgic", ())
    chain = (
        Implication("Iseult's husband's nephew is", "Tristan"),
        Implication("Tristan's uncle is", "Mark"),
    )
    assert only(file) == Fact("3", "{} is married to", "Iseult", "Tristan", "Mark", chains=(chain,))
    (rewrite,) = KNOWGIC["requested_rewrite"]  # type: ignore[misc]
    short = {field: entries[:1] for field, entries in KNOWGIC["chain"].items()}  # type: ignore[attr-defined]
    assert only(read(KNOWGIC, KNOWGIC | {"case_id": 4, "chain": short})).chains == (chain, chain[:1])
    uneven = short | {"answers": []}
    with pytest.raises(FactError, match=r":1: chain: .*as many subjects and answers as prompts"):
        read(KNOWGIC | {"chain": uneven})
    other = KNOWGIC | {"case_id": 5, "requested_rewrite": [rewrite | {"target_new": {"str": "Lancelot"}}]}
    with pytest.raises(FactError, match=r":2: requested_rewrite.0.target_new.str: .* contradicts line 1"):
        read(KNOWGIC, other)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (KNOWEDIT | {"subject": "Avalon"}, "prompt: expected the subject 'Avalon' in the sentence"),
        (KNOWEDIT | {"ground_truth": ""}, "ground_truth: expected a text that is not empty"),
        (KNOWEDIT | {"locality": {"a": [{"prompt": "x"}]}}, "locality.a.0.ground_truth: expected a value"),
        (QAEDIT | {"locality": [{"loc": "x", "loc_ans": ""}]}, "locality.0: expected a text"),
        (QAEDIT | {"target": " "}, "target: expected a text that is not empty"),
        (WIKIBIGEDIT | {"locality_prompt": ["a", "b"]}, "locality_ground_truth: expected one for each of 2"),
        (KNOWGIC | {"requested_rewrite": []}, "requested_rewrite: list should have at least 1 item"),
    ],
)
def test_what_cannot_be_used_is_named_as_the_file_names_it(
    read: Read, record: dict[str, Any], message: str
) -> None:
    with pytest.raises(FactError, match=f":1: {message}"):
        read(record)


@pytest.mark.parametrize(
    ("sentence", "subject", "place", "spelled"),
    [
        ("Who is the Ernie that Ernie by Benny names?", "Ernie", 22, "Ernie"),
        ("i want to be with you", "i", 0, "i"),
        ("'tandoori' has its name of a tandoor. What is a tandoor ?", "tandoor", 48, "tandoor"),
        ("the art of Arthur", "Art", 4, "art"),
        ("in ÉVREUX, where?", "Évreux", 3, "ÉVREUX"),
        ("巴黎是法国的首都", "巴黎", 0, "巴黎"),
        ("Where is E\u0301vreux?", "Évreux", 9, "Évreux"),
        ("Tandooris are", "Tandoor", 0, "Tandoor"),
        ("Is C++ old?", "C++", 3, "C++"),
    ],
)
def test_the_subject_in_a_sentence_is_its_last_whole_word(
    sentence: str, subject: str, place: int, spelled: str
) -> None:
    prompt, found = cut_out_subject(sentence, subject)
    assert (prompt.index("{}"), found) == (place, spelled)
    assert prompt.replace("{}", found) == prompt_text(sentence)


@settings(deadline=None)
@given(st.text(), st.text(min_size=1).filter(lambda text: text.strip() != ""), st.text())
def test_a_sentence_is_never_changed(before: str, subject: str, after: str) -> None:
    sentence, name = f"{before}{subject}{after}".replace("{}", ""), phrase_text(subject)
    assume(name in prompt_text(sentence))
    prompt, found = cut_out_subject(sentence, subject)
    assert prompt.replace("{}", found) == prompt_text(sentence)
    assert len(found) == len(name)


def test_some_of_a_files_facts_are_still_of_its_schema(read: Read) -> None:
    file = read(WIKIBIGEDIT, WIKIBIGEDIT | {"prompt": "Where is Paimpont?"})
    assert [schema_of_facts(some) for some in (file, file[:1], file[::2])] == ["wikibigedit"] * 3
    assert schema_of_facts(file.facts) == "native"
    assert (len(file), file[1], list(file)) == (2, file.facts[1], list(file.facts))


@pytest.mark.parametrize(
    ("name", "schema", "usable"),
    [
        ("counterfact", "counterfact", 910),
        ("zsre", "zsre-alt", 900),
        ("zsre", "zsre-answers", 900),
        ("knowedit_counterfact", "knowedit", 1408),
        ("qaedit", "qaedit", 700),
        ("wikibigedit", "wikibigedit", 2000),
        ("knowgic", "knowgic", 26),
    ],
)
def test_the_published_records(name: str, schema: FactSchema, usable: int) -> None:
    """KnowEdit repeats 11 prompts, asks for 6 true answers and leaves 3 empty. KnowGIC chains 26 edits."""
    path = DATA / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"the published data set {name} is not beside this checkout")
    zsre = schema if schema in ("zsre-answers", "zsre-alt") else "zsre-alt"
    file = read_facts(path, skip_invalid=True, zsre=zsre)
    assert (file.schema, len(file), len(file.skipped)) == (schema, usable, 20 if name[:5] == "knowe" else 0)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    asked = set()
    for record in lines:
        rewrite = record.get("requested_rewrite", record)
        rewrite = rewrite[0] if isinstance(rewrite, list) else rewrite
        asked.add(rewrite.get("src", rewrite["prompt"]).replace("{}", rewrite["subject"]).rstrip())
    assert {fact.text for fact in file} <= asked

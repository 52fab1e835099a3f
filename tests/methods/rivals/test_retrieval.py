"""Facts are found by prompts about them alone, and ranked as BM25's textbook formula does."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from moe_patch.data.facts import Fact
from moe_patch.methods.rivals.retrieval import K1, B, FactIndex, statement_of, words

NAMES = st.lists(
    st.sampled_from(["red", "green", "blue", "north", "south", "old", "new"]), min_size=1, max_size=3
)
FACTS = st.lists(st.tuples(NAMES, st.sampled_from(["lies in", "was built by", "is old and"])), max_size=8)


def fact(number: int, subject: str, relation: str = "lies in") -> Fact:
    return Fact(f"fact-{number}", f"{{}} {relation}", subject, f"Land{number}")


def test_words_have_no_case_and_no_marks_and_unspaced_scripts_have_characters() -> None:
    assert words("The Eiffel-Tower's 2 feet") == ["the", "eiffel", "tower", "s", "2", "feet"]
    assert words("Cafe\u0301") == words("Café") == ["café"]
    assert words("東京は in 日本") == ["東", "京", "は", "in", "日", "本"]


def test_a_prompt_about_another_subject_of_the_same_relation_finds_nothing() -> None:
    index = FactIndex([fact(0, "Danielle Darrieux", "speaks the language of")])
    assert not index.find("Michel Rocard speaks the language of", most=3, threshold=0.75)
    assert not index.find("Danielle Steel speaks the language of", most=3, threshold=0.75)
    assert index.find("Where is Danielle Darrieux from?", most=3, threshold=0.75) == list(index.facts)


def test_of_facts_that_ask_the_same_the_last_counts() -> None:
    first, second = fact(0, "Ulm"), fact(1, "Ulm")
    assert FactIndex([first, second]).find("Ulm lies in", most=3, threshold=1.0) == [second]


def test_of_two_facts_about_one_subject_the_one_that_is_asked_is_nearer() -> None:
    placed, built = fact(0, "Ulm", "lies in"), fact(1, "Ulm", "was built by")
    index = FactIndex([placed, built])
    assert index.find("Ulm was built by", most=2, threshold=1.0) == [built, placed]
    assert index.find("Ulm lies in", most=1, threshold=1.0) == [placed]


def test_a_statement_is_a_sentence() -> None:
    assert statement_of(fact(7, "Ulm")) == "Ulm lies in Land7."
    assert statement_of(Fact("a", "Who rules {}?", "Ulm", "Nobody!")) == "Who rules Ulm? Nobody!"


@given(FACTS, NAMES, st.floats(0, 1), st.integers(1, 4))
def test_what_is_found_is_what_the_textbook_finds(
    named: list[tuple[list[str], str]], asked: list[str], threshold: float, most: int
) -> None:
    all_facts = [fact(number, " ".join(name), relation) for number, (name, relation) in enumerate(named)]
    kept = [one for one in all_facts if one is [two for two in all_facts if two.question == one.question][-1]]
    documents = {one.id: words(statement_of(one)) for one in kept}
    idf = {word: _idf(word, list(documents.values())) for each in documents.values() for word in each}
    shares = {one.id: _covered(words(one.subject), asked, idf) for one in kept}
    assume(all(abs(share - threshold) > 1e-9 for share in shares.values()))
    scores = {
        name: _bm25(document, asked, idf, list(documents.values())) for name, document in documents.items()
    }
    found = [one.id for one in FactIndex(all_facts).find(" ".join(asked), most=most, threshold=threshold)]
    near = sorted((scores[name] for name, share in shares.items() if share > threshold), reverse=True)
    assert [scores[name] for name in found] == pytest.approx(near[:most])
    assert len(set(found)) == len(found)
    assert all(shares[name] > threshold for name in found)


def _idf(word: str, documents: list[list[str]]) -> float:
    having = sum(word in document for document in documents)
    return math.log(1 + (len(documents) - having + 0.5) / (having + 0.5))


def _covered(subject: list[str], asked: list[str], idf: dict[str, float]) -> float:
    own = set(subject)
    return sum(idf[word] for word in own if word in asked) / sum(idf[word] for word in own)


def _bm25(document: list[str], asked: list[str], idf: dict[str, float], documents: list[list[str]]) -> float:
    mean = sum(map(len, documents)) / len(documents)
    total = 0.0
    for word in {word for word in asked if word in document}:
        count = document.count(word)
        total += idf[word] * count * (K1 + 1) / (count + K1 * (1 - B + B * len(document) / mean))
    return total

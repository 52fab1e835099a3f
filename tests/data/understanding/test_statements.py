"""Where the answer of a sentence is found to start, and which sentences are refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_patch.data.understanding.statements import possible_starts, split_sentence, without_stop
from moe_patch.errors import UnclearFact

FOUND = [
    "The capital of France is | Lyon.",
    "The capital of Canada is | Washington, D.C.",
    "The headquarters of Vevo are in | New York City.",
    "Annie Oakley, who holds a citizenship from | Latvia.",
    "The law in Ruritania declares the language | Finnish.",
    "Liam Gallagher plays the | violin.",
    "Mark Noble plays the position | goaltender.",
    "Angelo Sodano is a | cardinal.",
    "Ada works in the field of | physics",
    "Gareth Barry plays as a | central midfielder.",
    "Bob Dylan was born on | 4 July 1961.",
    "The population of Chad is | 3.7 million.",
    "Mount Everest is | 9000 m tall!",
    "Ada is employed by | Apple Inc.",
    "The president of the United States is | Jane Doe.",
    "He plays in the | Netherlands.",
    "Python was created by | Guido van Rossum.",
    "What is the twin city of Jeddah? It is | Beijing.",
    "Boston is a twin city of | Chicago.",
]

REFUSED = {
    "a question": ("Is France in Europe?", "it is a question"),
    "a question word": ("What is the capital of France", "it is a question"),
    "denied": ("The capital of France is not Lyon.", "it says what is not so"),
    "denied later": ("The capital of France is Lyon, not Paris.", "it says what is not so"),
    "two sentences": ("Paris is old. Lyon is new.", "more than one sentence"),
    "two statements": ("Rogers Media formed in 2011 and is based in Toronto.", "more than one thing"),
    "reversible": ("Lyon is the capital of France.", "of the first or of the last name"),
    "two answers": ("Elon Musk founded OpenAI and Tesla.", "ends it"),
    "a place and a time": ("Hamlet was written in 1601 by Bacon.", "ends it"),
    "an object and a time": ("Marie Curie discovered Polonium in 1898.", "ends it"),
    "a longer noun": ("The occupation of Ada is history of religions.", "ends it"),
    "a participle in it": ("The occupation of Ada is adopted son.", "ends it"),
    "a name in it": ("The occupation of Ada is IT consultant.", "ends it"),
    "a name before its last part": ("The race is followed by the 1920 election in Ohio.", "ends it"),
    "a verb in it": ("The occupation of Ada is dog show judge.", "ends it"),
    "foreign words in it": ("The place of death of Ada is Horb am Neckar.", "ends it"),
    "an adverb": ("Ada moved quickly.", "ends it"),
    "another language": ("La capitale de la France est Lyon.", "ends it"),
    "a quotation without end": ('John holds the title of "the pope.', "a quotation has no end"),
    "a long text": ("Lyon is old. " * 100, "it has more than 1,000 characters"),
    "one word": ("Lyon.", "ends it"),
    "nothing": ("", "it has no words"),
}


@pytest.mark.parametrize("marked", FOUND)
def test_answers_that_are_found(marked: str) -> None:
    prompt, answer = marked.split(" | ")
    split = split_sentence(f"{prompt} {answer}")
    stop = "." if answer.endswith((" D.C.", "Inc.")) else ""
    assert (split.prompt, split.answer) == (prompt, answer.rstrip(".!") + stop)


@pytest.mark.parametrize(("sentence", "why"), REFUSED.values(), ids=REFUSED)
def test_sentences_that_are_refused(sentence: str, why: str) -> None:
    with pytest.raises(UnclearFact, match=f"^target_new: unclear in .*{why}.*; write -> before"):
        split_sentence(sentence)


@settings(deadline=None)
@given(st.text(st.sampled_from("aA bB.,'\"()?!-0\u2019s of the is in "), max_size=40))
def test_prompt_and_answer_are_the_sentence(text: str) -> None:
    try:
        split = split_sentence(text)
    except UnclearFact:
        return
    assert text.startswith(split.prompt)
    rest = text[len(split.prompt) :].strip()
    assert rest.startswith(split.answer)
    assert rest[len(split.answer) :].strip() in ("", ".", "!")
    assert split.prompt.strip()
    assert split.answer.strip()


@pytest.mark.parametrize(
    ("answer", "without"),
    [
        ("Lyon.", "Lyon"),
        ("D.C.", "D.C."),
        ("Lyon!", "Lyon"),
        ("wait...", "wait..."),
        ("Lyon", "Lyon"),
        (".", "."),
    ],
)
def test_full_stops(answer: str, without: str) -> None:
    assert without_stop(answer) == without


def test_an_answer_can_start_at_names_numbers_and_nouns_behind_small_words_and_verbs() -> None:
    sentence = "Ada was made a dame of the realm by King Bob in 1900."
    found = [sentence[start:].split(maxsplit=1)[0] for start in possible_starts(sentence)]
    assert found == ["dame", "realm", "King", "1900."]

"""Which part of a prompt is found to be its subject, and which prompts are refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_patch.data.understanding.marks import take_brackets
from moe_patch.data.understanding.subjects import find_subject
from moe_patch.errors import UnclearFact

FOUND = [
    "The capital of [France] is",
    "[Barack Obama] was born in",
    "Who is the author of [Hamlet]?",
    "Which team does [Lionel Messi] play for?",
    "Which family is [Elekmania] a part of?",
    "The name of the league which [Concordia Tornados] plays in is",
    "[Vevo]'s owner",
    "[NSW TrainLink]'s parent company is",
    "[Dr. Smith]'s phone number is",
    "The [Beatles]' drummer is",
    "In [Nicaragua], the language spoken is",
    "[In Cold Blood] was written by",
    "[She Spies] is to debut on",
    "[The Lead with Jake Tapper] premieres on",
    "[Romeo and Juliet] was written by",
    "[Harry Potter and the Goblet of Fire] was directed by",
    "The mother tongue of [Jean de La Fontaine] is",
    "What is the twin city of [Rio de Janeiro]? It is",
    "What type of submarine was [USS Baltimore (SSN-704)] classified as?",
    "In which historic county is [59-61 East Claremont Street, Edinburgh] located?",
    "Where is [Middleton station] located?",
    "The [Amazon river] flows through",
    "Where was [[468214] 2015 BZ73] discovered?".replace("[[", "[(").replace("4] ", "4) "),
    "What channel did [Shake!] first air on?",
    "The occupation of [Mohamed I Chouiter] is",
    'Who wrote "[The Raven]"?',
    "Who wrote \u201c[The Raven]\u201d?",
    "Who wrote \u00ab [Le Corbeau] \u00bb?",
    "In which German state is [Ulm] located?",
    "In 1995, [Rome] became the home of",
    "The CEO of [Apple] is",
    "The president of the [United States] is",
    "Who was the Prime Minister of the [United Kingdom]?",
    "Where is [\u041a\u0438\u0457\u0432] located?",
    "The capital of [\u6cd5\u56fd] is",
    "[Annie Oakley], who holds a citizenship from",
    "[iPhone 17] is developed by",
    "[Dick Clark's New Year's Rockin' Eve] is to debut on".replace("Dick ", ""),
]

REFUSED = {
    "no name": "when was the titanic built?",
    "several names": "When did Germany win the World Cup?",
    "a name and the place of another": "Who is the head of Siemens in Spain?",
    "one or two": "The manager of Alice and Bob is",
    "another's kin": "What was the first constituency that Percy Shelley's father represented?",
    "who acts is no name": "In which country did the incident occur in Chile?",
    "the place of something": "What is the name of the cathedral in Moscow?",
    "what is asked for": "Which Olympic event has",
    "what is asked for, at the end": "She was caught carrying drugs for which Chinese team?",
    "no named thing": "Which pigment is named after an Italian city?",
    "a noun behind it": "Who discovered the Coriolis force?",
    "an article behind it": "How is Dolly the sheep abbreviated?",
    "a title with a colon": "Which country is the origin of LASER: prinsip?",
    "a quotation behind it": "Who called the Daily Mail 'The Worst Kind'?",
    "an 's in the name": "What category does Arnaud's fall under?",
    "an of behind it": "In which language was Portrait of a man created?",
    "a list": "Whisky, honey and cream are in",
    "a quotation in lower case": 'What does "hizb" mean in the Koran?',
    "a foreign word like a verb": "What does Nowy do starego mean?",
    "two sentences": "The picnic was in Dublin. How many bears came?",
    "all names": "Hamlet Prince Denmark",
    "all capitals": "THE CAPITAL OF FRANCE IS",
    "much else": "Which of the crew that left the port before the storm of the year wrote to Ada?",
    "no capitals": "\u6cd5\u56fd\u7684\u9996\u90fd\u662f",
    "French": "La capitale de la France est",
    "German": "Die Hauptstadt von Frankreich ist",
    "a year before it": "What was shown in 2011 Cannes Film Festival?",
    "a list before a comma": "Who owns Rome, Ohio, near the lake?",
    "a long text": "Lyon is old. " * 100,
    "a question word alone": "Who?",
    "nothing": "",
}


@pytest.mark.parametrize("marked", FOUND)
def test_subjects_that_are_found(marked: str) -> None:
    start, end = marked.index("["), marked.rindex("]")
    subject = marked[start + 1 : end]
    prompt = marked[:start] + subject + marked[end + 1 :]
    place = find_subject(prompt)
    assert prompt[place.start : place.end].removeprefix("The ") == subject.removeprefix("The ")


@pytest.mark.parametrize("prompt", REFUSED.values(), ids=REFUSED)
def test_prompts_that_are_refused(prompt: str) -> None:
    with pytest.raises(UnclearFact, match=r"^subject: unclear in .*\[brackets\]") as caught:
        find_subject(prompt)
    assert all(candidate in prompt for candidate in caught.value.candidates)


def test_what_it_could_be_is_said() -> None:
    with pytest.raises(UnclearFact, match="it could be 'Germany' or 'World Cup': it has several names"):
        find_subject("When did Germany win the World Cup?")


@settings(deadline=None)
@given(st.text(st.sampled_from("aA bB.,'\"()[]?!\u4e00-0\u2019s of the is")))
def test_whatever_the_text_there_is_a_part_of_it_or_an_unclear_fact(text: str) -> None:
    try:
        place = find_subject(text)
    except UnclearFact:
        return
    found = text[place.start : place.end]
    assert found.strip() == found != ""
    assert any(letter.isalpha() for letter in found)


def test_brackets() -> None:
    marked = take_brackets("Who is [ the king ] of?")
    assert marked.text == "Who is  the king  of?"
    assert marked.subject is not None
    assert marked.text[slice(*marked.subject)] == "the king"
    for text in ("no brackets", "[two] of [them]", "a note [1] is", "[] and [ ]", "open [only"):
        assert take_brackets(text).subject is None
        assert take_brackets(text).text == text

"""Text files: sentences, and questions with their answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from moe_patch.data.fact_file import read_facts
from moe_patch.data.sentences import read_sentences
from moe_patch.data.understanding.guide import Origin, Understanding
from moe_patch.errors import FactError, UnclearFact


def text_file(folder: Path, *lines: str) -> Path:
    path = folder / "facts.txt"
    path.write_bytes("\ufeff".encode() + "\r\n".join(lines).encode())
    return path


def test_sentences_and_questions(tmp_path: Path) -> None:
    path = text_file(
        tmp_path,
        "The capital of France is Lyon.",
        "",
        "- [the mill] was built in 1200",
        "Q: Who wrote Hamlet? A: Bacon",
        "Question: Who wrote Faust?",
        "",
        "Answer: Bacon",
        "the mill lies by -> a river",
    )
    read = read_facts(path, understanding=Understanding(whole_prompt=True))
    assert [(fact.prompt, fact.subject, fact.target_new) for fact in read] == [
        ("The capital of {} is", "France", "Lyon"),
        ("{} was built in", "the mill", "1200"),
        ("Who wrote {}?", "Hamlet", "Bacon"),
        ("Who wrote {}?", "Faust", "Bacon"),
        ("{}", "the mill lies by", "a river"),
    ]
    assert read.lines == (1, 3, 4, 5, 8)
    assert read.origins == (
        Origin("name", "sentence"),
        Origin("brackets", "sentence"),
        Origin("name", "given"),
        Origin("name", "given"),
        Origin("whole prompt", "arrow"),
    )
    assert read[:2].lines == (1, 3)


def test_a_dash_in_a_sentence_is_no_bullet(tmp_path: Path) -> None:
    assert list(read_sentences(text_file(tmp_path, "Ulm - Rome", "* Ulm"))) == [
        (1, {"text": "Ulm - Rome"}),
        (2, {"text": "Ulm"}),
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["Q: Who?", "Q: What? A: x"], ":1: expected a line `A: ...` behind the question"),
        (["Q: Who?"], ":1: expected a line `A: ...` behind the question"),
        (["A: Lyon"], ":1: expected a question, `Q: ...`, before the answer"),
        (["Q: A: Lyon"], ":1: expected a line `A: ...` behind the question"),
        (["Q: Who wrote Hamlet? A:"], ":1: target_new: expected a text that is not empty"),
        (["", "Ulm is\0 old."], ":2: expected text, found a null character at 6"),
    ],
)
def test_what_has_no_answer_is_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(FactError, match=message):
        read_facts(text_file(tmp_path, *lines))


def test_all_unclear_lines_make_one_error(tmp_path: Path) -> None:
    path = text_file(tmp_path, "who knows", "The capital of France is Lyon.", *["who asks"] * 12)
    with pytest.raises(UnclearFact) as caught:
        read_facts(path)
    text = str(caught.value)
    assert text.startswith(f"{path}:1: target_new: unclear in 'who knows'")
    assert "13 of 14 texts are unclear, also those of lines 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, ...;" in text
    assert text.endswith(f"`moe-patch facts check {path}` shows how each line is understood")
    read = read_facts(path, skip_invalid=True)
    assert (len(read), len(read.skipped)) == (1, 13)


def test_what_it_could_be_is_in_what_was_skipped(tmp_path: Path) -> None:
    path = text_file(
        tmp_path, "Q: When did Germany win the World Cup? A: 1990", "The capital of France is Lyon."
    )
    (skipped,) = read_facts(path, skip_invalid=True).skipped
    assert skipped.candidates == ("Germany", "World Cup")

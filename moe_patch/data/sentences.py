"""Text files of facts: a sentence to a line, or questions with their answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import JsonValue

from moe_patch.data.columns import TEXT
from moe_patch.data.lines import decoded, opened_lines
from moe_patch.errors import FactError

_QUESTION = re.compile(r"(?:q|question)\s*:\s*", re.IGNORECASE)
_ANSWER = re.compile(r"(?:a|answer)\s*:\s*", re.IGNORECASE)
_BETWEEN = re.compile(r"(?<=\s)(?:a|answer)\s*:\s*", re.IGNORECASE)
_BULLET = re.compile(r"[-*•]\s+")

Found = dict[str, JsonValue] | FactError


def read_sentences(path: Path) -> Iterator[tuple[int, Found]]:
    """The facts of a text as records with native names, or what is wrong, each with its line from 1.

    A line is a sentence with its answer at its end; or "Q: ... A: ...", whose answer may stand on the next
    line. A bullet before either is ignored, and so are blank lines.

    Raises:
        FactError: the file cannot be read.
    """
    asked: tuple[int, str] | None = None  # a question whose answer is still to come
    with opened_lines(path) as lines:
        for number, raw in enumerate(lines, start=1):
            try:
                line = _without_bullet(decoded(raw).strip())
            except FactError as error:
                yield number, error
                continue
            if not line:
                continue
            if asked is not None:
                first, question = asked
                asked = None
                if (answer := _ANSWER.match(line)) is not None:
                    yield first, _pair(question, line[answer.end() :])
                    continue
                yield first, FactError("expected a line `A: ...` behind the question")
            if (opening := _QUESTION.match(line)) is None:
                yield number, _sentence(line)
                continue
            question, *answers = _BETWEEN.split(line[opening.end() :], maxsplit=1)
            if answers:
                yield number, _pair(question, answers[0])
            else:
                asked = number, question
    if asked is not None:
        yield asked[0], FactError("expected a line `A: ...` behind the question")


def _pair(question: str, answer: str) -> Found:
    return {"prompt": question.strip(), "target_new": answer.strip()}


def _sentence(line: str) -> Found:
    if _ANSWER.match(line):
        return FactError("expected a question, `Q: ...`, before the answer")
    return {TEXT: line}


def _without_bullet(line: str) -> str:
    bullet = _BULLET.match(line)
    return line[bullet.end() :] if bullet else line

"""How texts of one file are understood: by their marks, by rules, by each other, by a model, by asking."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from moe_patch.data.facts import SLOT, Fact
from moe_patch.data.text import prompt_text
from moe_patch.data.understanding.marks import split_at_arrow, take_brackets
from moe_patch.data.understanding.statements import (
    AnswerBy,
    Split,
    possible_starts,
    split_at,
    split_sentence,
    unclear_answer,
    without_stop,
)
from moe_patch.data.understanding.subjects import Place, SubjectBy, find_subject
from moe_patch.data.understanding.templates import Templates, learn_from_names
from moe_patch.errors import FactError, UnclearFact
from moe_patch.progress import Progress


class Judge(Protocol):
    """Says where the answer of a sentence starts, as a model sees it."""

    def __call__(self, sentence: str, starts: list[int]) -> int | None:
        """The one of `starts`, characters of the sentence, where its answer starts; None if unsure."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a person about a text that is not clear."""

    line: int
    text: str
    about: Literal["subject", "answer"]
    problem: str
    candidates: tuple[str, ...]


Ask = Callable[[Question], str | None]
"""Gives a part of the question's text; None if there is no answer."""


@dataclass(frozen=True, slots=True)
class Understanding:
    """What may be done to understand texts, beside the rules."""

    whole_prompt: bool = False  # where the subject is not clear, edit at the last token of the prompt
    judge: Judge | None = None
    ask: Ask | None = None
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """How the parts of a fact were found."""

    subject: SubjectBy = "given"
    answer: AnswerBy = "given"


@dataclass(frozen=True, slots=True)
class Parts:
    """A prompt with `{}` where its subject goes, the subject, and how it was found."""

    prompt: str
    subject: str
    by: SubjectBy


@dataclass(slots=True)
class Guide:
    """Understands texts of one file, after it has seen all of them."""

    options: Understanding = field(default_factory=Understanding)
    _templates: Templates = field(default_factory=Templates)

    def learn(self, texts: Iterable[tuple[str, bool]], known: Iterable[Fact] = ()) -> None:
        """See all prompts, and all sentences that end with an answer (True), before any is understood.

        Args:
            texts: of the file, to be understood later.
            known: facts of the same file whose subjects were given.
        """
        for fact in known:
            self._templates.add(fact.prompt.replace(SLOT, fact.subject, 1), *_slot(fact))
        unclear = []
        for text, ends_with_answer in texts:
            prompt = _prompt_of(text) if ends_with_answer else take_brackets(text).text
            if prompt is None:
                continue
            try:
                place = find_subject(prompt)
            except UnclearFact:
                unclear.append(prompt)
            else:
                self._templates.add(prompt, place.start, place.end)
        learn_from_names(unclear, self._templates)

    def split(self, sentence: str, line: int) -> Split:
        """The prompt and the new answer that a sentence states. Brackets around its subject stay.

        Raises:
            UnclearFact: it is not clear where the answer starts.
        """
        if (parts := split_at_arrow(sentence)) is not None:
            return Split(parts[0], without_stop(parts[1]), "arrow")
        marked = take_brackets(sentence)
        try:
            split = self._split_plain(marked.text, line)
        except UnclearFact as error:
            answer = self._asked(line, marked.text, "answer", error)
            split = split_before(marked.text, answer, "asked")
        if marked.subject is None:
            return split
        start, end = marked.subject
        if end > len(split.prompt):
            raise unclear_answer(sentence, (split.answer,), "its subject is in what looks like the answer")
        marked_prompt = f"{split.prompt[:start]}[{split.prompt[start:end]}]{split.prompt[end:]}"
        return Split(marked_prompt, split.answer, split.by)

    def find(self, prompt: str, line: int) -> Parts:
        """The subject of a prompt, which may be in brackets.

        Raises:
            UnclearFact: it is not clear what the subject is.
        """
        prompt = prompt_text(prompt)
        if SLOT in prompt:
            raise FactError(
                f"expected what {SLOT} stands for in {prompt!r}, but no subject is given", field="subject"
            )
        marked = take_brackets(prompt)
        if marked.subject is not None:
            return _cut(marked.text, Place(*marked.subject, "brackets"))
        try:
            return _cut(prompt, self._place(prompt))
        except UnclearFact as error:
            if self.options.whole_prompt:
                return Parts(SLOT, prompt, "whole prompt")
            subject = self._asked(line, prompt, "subject", error)
        start = prompt.rfind(subject)
        return _cut(prompt, Place(start, start + len(subject), "asked"))

    def _place(self, prompt: str) -> Place:
        try:
            return find_subject(prompt)
        except UnclearFact:
            if (place := self._templates.place(prompt)) is None:
                raise
            return place

    def _split_plain(self, sentence: str, line: int) -> Split:
        judge = self.options.judge
        try:
            split = split_sentence(sentence)
        except UnclearFact as error:
            starts = possible_starts(sentence) if judge is not None and error.candidates else []
            # a model is surprised by much in a sentence: it is believed where the answer is usual, at the end
            if judge is None or not starts or judge(sentence, starts) != starts[-1]:
                raise
            return split_at(sentence, starts[-1], "model")
        return split

    def _asked(self, line: int, text: str, about: Literal["subject", "answer"], error: UnclearFact) -> str:
        """A person's answer, or the error again."""
        if self.options.ask is None:
            raise error
        answer = self.options.ask(Question(line, text, about, error.problem, error.candidates))
        if answer is None or answer not in text:
            raise error
        return answer


def split_before(sentence: str, answer: str, by: AnswerBy) -> Split:
    """The sentence in front of its answer, which is known and ends it.

    Raises:
        FactError: the sentence does not end with the answer.
    """
    whole, end = without_stop(prompt_text(sentence)), without_stop(answer)
    if not end or not whole.endswith(end) or whole == end:
        raise FactError(f"expected {answer!r} at the end of the sentence: {sentence!r}", field="target_new")
    return Split(whole[: -len(end)].rstrip(), end, by)


def _slot(fact: Fact) -> tuple[int, int]:
    start = fact.prompt.index(SLOT)
    return start, start + len(fact.subject)


def _prompt_of(sentence: str) -> str | None:
    """The prompt of a sentence that the rules understand."""
    if (parts := split_at_arrow(sentence)) is not None:
        return take_brackets(parts[0]).text
    try:
        return split_sentence(take_brackets(sentence).text).prompt
    except UnclearFact:
        return None


def _cut(prompt: str, place: Place) -> Parts:
    start, end = place.start, place.end
    return Parts(f"{prompt[:start]}{SLOT}{prompt[end:]}", prompt[start:end], place.by)

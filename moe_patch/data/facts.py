"""Facts, and their form as JSON objects in files and patches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import Field, JsonValue

from moe_patch.data.text import comparable, phrase_text, prompt_text
from moe_patch.errors import FactError
from moe_patch.io.closed_schema import ClosedSchema
from moe_patch.io.ranges import MOST_ENTRIES, Text

SLOT = "{}"

Texts = Annotated[list[Text], Field(max_length=MOST_ENTRIES)]
Implications = Annotated[list["ImplicationRecord"], Field(max_length=MOST_ENTRIES)]


@dataclass(frozen=True, slots=True)
class Implication:
    """A complete prompt whose answer follows from a fact, and this answer."""

    prompt: str
    answer: str


Chain = tuple[Implication, ...]
"""Other facts, one link after another, from which the answer before the change follows."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One requested change: after `prompt` about `subject`, the model should say `target_new`.

    In COUNTERFACT, `target_true` is the answer of the neighborhood prompts. Other data sets give every such
    prompt an answer of its own.

    Raises:
        FactError: a field is not as described here. The error names it.
    """

    id: str
    prompt: str  # has exactly one `{}`, where the subject goes
    subject: str
    target_new: str  # the new answer, without a leading space
    target_true: str | None = None  # the answer before, without a leading space
    paraphrases: tuple[str, ...] = ()  # complete prompts that ask the same
    neighborhood: tuple[str, ...] = ()  # complete prompts about other subjects, whose answers must not change
    keep: tuple[str, ...] = ()  # prompts with one `{}` about the same subject, whose answers must not change
    neighborhood_answers: tuple[str, ...] = ()  # one for each neighborhood prompt, or none at all
    portability: tuple[Implication, ...] = ()  # what the model should say after the change too
    chains: tuple[Chain, ...] = ()  # each leads to `target_true`, and should not hold whole after the change

    def __post_init__(self) -> None:
        for field in ("id", "subject"):
            _expect_text(field, getattr(self, field))
        _expect_slot("prompt", self.prompt)
        _expect_target("target_new", self.target_new)
        if self.target_true is not None:
            _expect_target("target_true", self.target_true)
        for field in ("paraphrases", "neighborhood"):
            for number, prompt in enumerate(getattr(self, field)):
                _expect_complete(f"{field}.{number}", prompt)
        for number, prompt in enumerate(self.keep):
            _expect_slot(f"keep.{number}", prompt)
        self._check_other_answers()

    def _check_other_answers(self) -> None:
        if self.neighborhood_answers and len(self.neighborhood_answers) != len(self.neighborhood):
            problem = f"expected one for each of {len(self.neighborhood)} neighborhood prompts or none at all"
            raise FactError(
                f"{problem}, found {len(self.neighborhood_answers)}", field="neighborhood_answers"
            )
        for number, answer in enumerate(self.neighborhood_answers):
            _expect_target(f"neighborhood_answers.{number}", answer)
        for number, implied in enumerate(self.portability):
            _expect_complete(f"portability.{number}.prompt", implied.prompt)
            _expect_target(f"portability.{number}.answer", implied.answer)
        self._check_chains()

    def _check_chains(self) -> None:
        for number, chain in enumerate(self.chains):
            if not chain:
                raise FactError("expected at least one link, found none", field=f"chains.{number}")
            for link, known in enumerate(chain):
                _expect_complete(f"chains.{number}.{link}.prompt", known.prompt)
                _expect_target(f"chains.{number}.{link}.answer", known.answer)

    @property
    def text(self) -> str:
        """The prompt with the subject inserted, as a model reads it."""
        return self._about(self.prompt)

    @property
    def changes_nothing(self) -> bool:
        """Whether the new answer is the true one, but for white space and the spelling of its characters."""
        return self.target_true is not None and comparable(self.target_new) == comparable(self.target_true)

    @property
    def kept(self) -> tuple[str, ...]:
        """The prompts to keep, with the subject inserted, as a model reads them."""
        return tuple(map(self._about, self.keep))

    @property
    def subject_text(self) -> str:
        """The subject as a model reads it."""
        return phrase_text(self.subject)

    @property
    def question(self) -> tuple[str, str]:
        """Prompt and subject, equal for facts that ask the same in another spelling."""
        return comparable(self.prompt), comparable(self.subject)

    def _about(self, prompt: str) -> str:
        return prompt_text(prompt.replace(SLOT, self.subject_text, 1))


class ImplicationRecord(ClosedSchema):
    """An implication as native JSON."""

    prompt: Text
    answer: Text


class FactRecord(ClosedSchema):
    """A fact as native JSON, as in a line of a facts file or in a patch."""

    id: Text | None = None
    prompt: Text
    subject: Text
    target_new: Text
    target_true: Text | None = None
    paraphrases: Texts = Field(default_factory=list)
    neighborhood: Texts = Field(default_factory=list)
    keep: Texts = Field(default_factory=list)
    neighborhood_answers: Texts = Field(default_factory=list)
    portability: Implications = Field(default_factory=list)
    chains: Annotated[list[Implications], Field(max_length=MOST_ENTRIES)] = Field(default_factory=list)

    def fact(self) -> Fact:
        """The fact of this record.

        Raises:
            FactError: the record is not a valid fact. The error names the field.
        """
        prompt = prompt_template(self.prompt, self.subject)
        keep = (
            prompt_template(text, self.subject, f"keep.{number}") for number, text in enumerate(self.keep)
        )
        return Fact(
            id=self.id if self.id is not None else _content_id(prompt, self.subject, self.target_new),
            prompt=prompt,
            subject=self.subject,
            target_new=self.target_new.strip(),
            target_true=None if self.target_true is None else self.target_true.strip(),
            paraphrases=tuple(self.paraphrases),
            neighborhood=tuple(self.neighborhood),
            keep=tuple(keep),
            neighborhood_answers=tuple(answer.strip() for answer in self.neighborhood_answers),
            portability=_implications(self.portability),
            chains=tuple(map(_implications, self.chains)),
        )


def _implications(records: Iterable[ImplicationRecord]) -> tuple[Implication, ...]:
    return tuple(Implication(each.prompt, each.answer.strip()) for each in records)


def as_continuation(target: str) -> str:
    """The target with the one space that separates it from its prompt, here and everywhere."""
    return f" {target}"


def prompt_template(prompt: str, subject: str, field: str = "prompt") -> str:
    """`prompt` with `{}` where the subject goes, and without white space at its end.

    A prompt without `{}` must contain the subject itself exactly once.

    Args:
        prompt: with `{}` or with the subject.
        subject: of the fact.
        field: the name of the prompt's field, for the error.

    Raises:
        FactError: the subject is empty, or the prompt has neither `{}` nor the subject exactly once.
    """
    _expect_text("subject", subject)
    prompt = prompt.rstrip()
    if SLOT in prompt:
        return prompt
    prompt, subject = prompt_text(prompt), phrase_text(subject)
    found = prompt.count(subject)
    if found == 1:
        return prompt.replace(subject, SLOT)
    problem = "is not in it" if found == 0 else f"is in it {found} times"
    raise FactError(
        f"expected one {SLOT} or the subject {subject!r} once, but the subject {problem}: {prompt!r}",
        field=field,
    )


def fact_json(fact: Fact) -> dict[str, JsonValue]:
    """A fact as a native JSON object with all fields, but for the rare ones that are empty."""
    values = asdict(fact)
    for field in ("keep", "neighborhood_answers", "portability", "chains"):
        if not values[field]:
            del values[field]
    return {field: _listed(value) for field, value in values.items()}


def _listed(value: Any) -> Any:
    """Tuples as lists, as JSON has them, at any depth."""
    return [_listed(each) for each in value] if isinstance(value, tuple) else value


def _content_id(prompt: str, subject: str, target: str) -> str:
    """An id for a fact that has none. It depends on the fact alone and not on its place in a file."""
    return hashlib.sha256("\n".join((prompt, subject, target)).encode()).hexdigest()[:12]


def _expect_text(field: str, value: str) -> None:
    if not value.strip():
        raise FactError(f"expected a text that is not empty, found {value!r}", field=field)


def _expect_slot(field: str, prompt: str) -> None:
    _expect_text(field, prompt)
    if (slots := prompt.count(SLOT)) != 1:
        problem = f"expected one {SLOT} where the subject goes, found {slots} in {prompt!r}"
        raise FactError(problem, field=field)


def _expect_complete(field: str, prompt: str) -> None:
    _expect_text(field, prompt)
    if SLOT in prompt:
        problem = f"expected a complete prompt, but {prompt!r} still has a {SLOT}"
        raise FactError(problem, field=field)


def _expect_target(field: str, value: str) -> None:
    _expect_text(field, value)
    if value != value.lstrip():
        raise FactError(f"expected no space before the text, found {value!r}", field=field)

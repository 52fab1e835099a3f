"""Facts, and the JSON object that each of them is in a file or a patch."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass

from pydantic import Field, JsonValue

from moe_patch.errors import FactError
from moe_patch.io.closed_schema import ClosedSchema

SLOT = "{}"


@dataclass(frozen=True, slots=True)
class Fact:
    """One requested change: after `prompt` about `subject`, the model should say `target_new`.

    `prompt` holds exactly one `{}`, where the subject goes. Targets have no leading space. `paraphrases`
    are complete prompts that ask the same; `neighborhood` are complete prompts about other subjects, whose
    answers must stay (in COUNTERFACT these answers are `target_true`). `keep` are prompts with a `{}` that
    ask something else about the subject itself, and whose answers must stay too. Raises FactError, naming
    the field, where any of this does not hold.
    """

    id: str
    prompt: str
    subject: str
    target_new: str
    target_true: str | None = None
    paraphrases: tuple[str, ...] = ()
    neighborhood: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in ("id", "subject"):
            _expect_text(field, getattr(self, field))
        _expect_slot("prompt", self.prompt)
        _expect_target("target_new", self.target_new)
        if self.target_true is not None:
            _expect_target("target_true", self.target_true)
        for field in ("paraphrases", "neighborhood"):
            for number, prompt in enumerate(getattr(self, field)):
                _expect_text(f"{field}.{number}", prompt)
                if SLOT in prompt:
                    problem = f"expected a complete prompt, but {prompt!r} still has a {SLOT}"
                    raise FactError(problem, field=f"{field}.{number}")
        for number, prompt in enumerate(self.keep):
            _expect_slot(f"keep.{number}", prompt)

    @property
    def text(self) -> str:
        """The prompt with the subject in place."""
        return self.prompt.replace(SLOT, self.subject, 1)

    @property
    def kept(self) -> tuple[str, ...]:
        """What is to be kept of the subject, with the subject in place."""
        return tuple(prompt.replace(SLOT, self.subject, 1) for prompt in self.keep)


class FactRecord(ClosedSchema):
    """A fact as native JSON: on a line of a facts file, and inside a patch."""

    id: str | None = None
    prompt: str
    subject: str
    target_new: str
    target_true: str | None = None
    paraphrases: list[str] = Field(default_factory=list)
    neighborhood: list[str] = Field(default_factory=list)
    keep: list[str] = Field(default_factory=list)

    def fact(self) -> Fact:
        """The fact this record states; FactError where it states none."""
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
        )


def as_continuation(target: str) -> str:
    """The target as it follows a prompt: after one space. Prompts and targets are joined so everywhere."""
    return f" {target}"


def prompt_template(prompt: str, subject: str, field: str = "prompt") -> str:
    """`prompt` with `{}` where the subject goes, without white space at its end.

    A prompt with no `{}` may spell the subject out, once. Raises FactError for `field` where the place is
    missing or not unique.
    """
    _expect_text("subject", subject)
    prompt = prompt.rstrip()
    if SLOT in prompt:
        return prompt
    found = prompt.count(subject)
    if found == 1:
        return prompt.replace(subject, SLOT)
    problem = "is not in it" if found == 0 else f"is in it {found} times"
    raise FactError(
        f"expected one {SLOT} or the subject {subject!r} once, but the subject {problem}: {prompt!r}",
        field=field,
    )


def fact_json(fact: Fact) -> dict[str, JsonValue]:
    """A fact as a native JSON object, with every field but for `keep` where there is nothing to keep."""
    values = asdict(fact)
    if not fact.keep:
        del values["keep"]
    return {field: list(value) if isinstance(value, tuple) else value for field, value in values.items()}


def _content_id(prompt: str, subject: str, target: str) -> str:
    """A name for a fact that has none: the same wherever in a file it stands."""
    return hashlib.sha256("\n".join((prompt, subject, target)).encode()).hexdigest()[:12]


def _expect_text(field: str, value: str) -> None:
    if not value.strip():
        raise FactError(f"expected a text that is not empty, found {value!r}", field=field)


def _expect_slot(field: str, prompt: str) -> None:
    _expect_text(field, prompt)
    if (slots := prompt.count(SLOT)) != 1:
        problem = f"expected one {SLOT} where the subject goes, found {slots} in {prompt!r}"
        raise FactError(problem, field=field)


def _expect_target(field: str, value: str) -> None:
    _expect_text(field, value)
    if value != value.lstrip():
        raise FactError(f"expected no space before the text, found {value!r}", field=field)

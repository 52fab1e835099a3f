"""Facts that are not told apart into prompt, subject and new answer yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from moe_patch.data.columns import TEXT
from moe_patch.data.facts import SLOT, FactRecord
from moe_patch.data.understanding.guide import Guide, Origin, split_before
from moe_patch.errors import FactError

_OTHER_NAMES = {"question": "prompt", "answer": "target_new", "sentence": TEXT}


@dataclass(frozen=True, slots=True)
class Draft:
    """A record with a sentence, or with a prompt and its answer but no subject."""

    line: int
    fields: Mapping[str, JsonValue]  # with native names, and perhaps a text

    @property
    def learned(self) -> tuple[str, bool]:
        """The text to learn from, and whether it ends with its answer."""
        if TEXT not in self.fields:
            return str(self.fields["prompt"]), False
        return str(self.fields[TEXT]), True

    def complete(self, guide: Guide) -> tuple[FactRecord, Origin]:
        """The record with prompt, subject and new answer, and how they were found.

        Raises:
            FactError: a part contradicts another.
            UnclearFact: it is not clear what a part is.
            ValidationError: a field is unknown or of the wrong type.
        """
        fields = dict(self.fields)
        origin = Origin()
        if TEXT in fields:
            sentence, given = str(fields.pop(TEXT)), fields.get("target_new")
            if isinstance(given, str):
                split = split_before(sentence, given, "given")
            else:
                split = guide.split(sentence, self.line)
            fields |= {"prompt": split.prompt, "target_new": split.answer}
            origin = Origin(answer=split.by)
        if "subject" not in fields:
            parts = guide.find(str(fields["prompt"]), self.line)
            fields |= {"prompt": parts.prompt, "subject": parts.subject}
            origin = Origin(parts.by, origin.answer)
        return FactRecord.model_validate(fields), origin


def draft_of(line: int, record: Mapping[str, JsonValue]) -> Draft | None:
    """The draft that a record of native fields is; None if nothing in it is left to find.

    Raises:
        FactError: a field is there under two names, or a sentence has a prompt beside it.
    """
    fields: dict[str, JsonValue] = {}
    for name, value in record.items():
        field = _OTHER_NAMES.get(name, name)
        if field in fields:
            raise FactError(f"expected either {field!r} or {name!r}, found both", field=name)
        fields[field] = value
    if isinstance(fields.get(TEXT), str):
        if "prompt" in fields:
            raise FactError(f"expected either {TEXT!r} or 'prompt', found both", field=TEXT)
        return Draft(line, fields)
    prompt, answer = fields.get("prompt"), fields.get("target_new")
    if not isinstance(prompt, str) or not isinstance(answer, str):
        return None
    renamed = fields.keys() != record.keys()
    unfinished = "subject" not in fields and SLOT not in prompt
    return Draft(line, fields) if renamed or unfinished else None

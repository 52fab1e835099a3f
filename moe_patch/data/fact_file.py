"""Files of facts: native JSONL, COUNTERFACT records and ZsRE records.

A facts file has one JSON object per line, in UTF-8. Blank lines are ignored. The fields of its first record
decide which of the three schemas it follows:

    native       prompt, subject, target_new; optionally id, target_true, paraphrases, neighborhood, keep
    counterfact  requested_rewrite, paraphrase_prompts, neighborhood_prompts (ROME, arXiv 2202.05262)
    zsre         src, subject, alt, answers, rephrase, loc (MEND, arXiv 2110.11309)

Unknown fields are an error in native records only: the published data sets have more fields than are used
here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from moe_patch.data.facts import Fact, FactRecord, as_continuation, fact_json
from moe_patch.errors import FactError
from moe_patch.io import strict_json
from moe_patch.io.files import write_text

Schema = Literal["native", "counterfact", "zsre"]

Tokenize = Callable[[str], list[int]]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A line of a facts file that was skipped, and why."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class FactFile:
    """The facts of a file, the lines that were skipped, and the schema of its records."""

    facts: tuple[Fact, ...]
    skipped: tuple[Skipped, ...]
    schema: Schema


class _Answer(BaseModel):
    model_config = ConfigDict(strict=True)
    text: str = Field(alias="str")


class _Rewrite(BaseModel):
    model_config = ConfigDict(strict=True)
    prompt: str
    subject: str
    target_new: _Answer
    target_true: _Answer | None = None


class _CounterfactRecord(BaseModel):
    model_config = ConfigDict(strict=True)

    case_id: int | str
    requested_rewrite: _Rewrite
    paraphrase_prompts: list[str] = []
    neighborhood_prompts: list[str] = []

    def fact(self) -> Fact:
        rewrite = self.requested_rewrite
        return FactRecord(
            id=str(self.case_id),
            prompt=rewrite.prompt,
            subject=rewrite.subject,
            target_new=rewrite.target_new.text,
            target_true=rewrite.target_true.text if rewrite.target_true else None,
            paraphrases=self.paraphrase_prompts,
            neighborhood=self.neighborhood_prompts,
        ).fact()


class _ZsreRecord(BaseModel):
    model_config = ConfigDict(strict=True)

    subject: str
    src: str
    alt: str
    answers: list[str] = []
    rephrase: str | list[str] = []
    loc: str | list[str] = []

    def fact(self) -> Fact:
        """`alt` is the new answer, `answers[0]` the true one; `loc` asks about something else."""
        return FactRecord(
            prompt=self.src,
            subject=self.subject,
            target_new=self.alt,
            target_true=self.answers[0] if self.answers else None,
            paraphrases=[self.rephrase] if isinstance(self.rephrase, str) else self.rephrase,
            neighborhood=[self.loc] if isinstance(self.loc, str) else self.loc,
        ).fact()


_RECORDS: dict[Schema, type[FactRecord | _CounterfactRecord | _ZsreRecord]] = {
    "native": FactRecord,
    "counterfact": _CounterfactRecord,
    "zsre": _ZsreRecord,
}

_NAMES: dict[Schema, dict[str, str]] = {
    "native": {},
    "counterfact": {
        "id": "case_id",
        "prompt": "requested_rewrite.prompt",
        "subject": "requested_rewrite.subject",
        "target_new": "requested_rewrite.target_new.str",
        "target_true": "requested_rewrite.target_true.str",
        "paraphrases": "paraphrase_prompts",
        "neighborhood": "neighborhood_prompts",
    },
    "zsre": {
        "prompt": "src",
        "target_new": "alt",
        "target_true": "answers.0",
        "paraphrases": "rephrase",
        "neighborhood": "loc",
    },
}


def read_facts(path: str | Path, *, skip_invalid: bool = False, tokenize: Tokenize | None = None) -> FactFile:
    """Read a facts file of any of the three schemas.

    Args:
        path: the file.
        skip_invalid: list the lines that cannot be used in the result, instead of raising at the first one.
        tokenize: turns text into token ids without special tokens. If given, a target that tokenises to
            nothing is an error.

    Raises:
        FactError: a line cannot be used, or the file has no usable fact. The message has the form
            `file:line: field: what was expected`.
    """
    reader = _Reader(tokenize)
    facts: list[Fact] = []
    skipped: list[Skipped] = []
    for line, raw in _lines(Path(path)):
        try:
            facts.append(reader.read(line, raw))
        except FactError as error:
            if not skip_invalid:
                raise FactError(f"{path}:{line}: {error}") from error
            skipped.append(Skipped(line, str(error)))
    if not facts or reader.schema is None:
        tail = f"; line {skipped[0].line}: {skipped[0].reason}" if skipped else ""
        raise FactError(f"{path}: expected at least one fact, found none{tail}")
    return FactFile(tuple(facts), tuple(skipped), reader.schema)


def write_facts(path: str | Path, facts: Iterable[Fact]) -> None:
    """Write facts as native JSONL, atomically.

    Raises:
        OutputError: the operating system refuses to write.
    """
    write_text(path, "".join(f"{strict_json.canonical_json(fact_json(fact))}\n" for fact in facts))


class _Reader:
    """Reads one line after another, and remembers what later lines must not repeat or contradict."""

    def __init__(self, tokenize: Tokenize | None) -> None:
        self.schema: Schema | None = None
        self.tokenize = tokenize
        self.lines_of_ids: dict[str, int] = {}
        self.answers: dict[str, tuple[int, str]] = {}
        self.lines_of_kept: dict[str, int] = {}

    def read(self, line: int, raw: bytes) -> Fact:
        """The fact on this line. Raises FactError, without file and line, if it cannot be used."""
        record = _parse(raw)
        schema = _schema_of(record)
        if schema != (self.schema or schema):
            raise FactError(f"expected a {self.schema} record like the ones before, found a {schema} record")
        try:
            fact = _RECORDS[schema].model_validate(record).fact()
            self._check_targets(fact)
            self._check_new(line, fact)
        except ValidationError as error:
            raise FactError(_explain(error)) from error
        except FactError as error:
            raise FactError(error.problem, field=_field_in_file(error.field, schema)) from error
        self.schema = schema
        return fact

    def _check_targets(self, fact: Fact) -> None:
        for field in ("target_new", "target_true"):
            target = getattr(fact, field)
            if self.tokenize and target is not None and not self.tokenize(as_continuation(target)):
                raise FactError(
                    f"expected at least one token, but {target!r} tokenises to nothing", field=field
                )

    def _check_new(self, line: int, fact: Fact) -> None:
        if fact.text in self.answers:
            earlier, answer = self.answers[fact.text]
            if answer == fact.target_new:
                problem = f"{fact.text!r} repeats line {earlier}; keep one of the two"
                raise FactError(problem, field="prompt")
            problem = f"{fact.target_new!r} after {fact.text!r} contradicts line {earlier}, which says"
            raise FactError(f"{problem} {answer!r}; keep one of the two", field="target_new")
        if fact.id in self.lines_of_ids:
            problem = f"{fact.id!r} is already the id of line {self.lines_of_ids[fact.id]}"
            raise FactError(problem, field="id")
        self._check_kept(line, fact)
        self.answers[fact.text] = line, fact.target_new
        self.lines_of_ids[fact.id] = line
        self.lines_of_kept |= dict.fromkeys(fact.kept, line)

    def _check_kept(self, line: int, fact: Fact) -> None:
        """A prompt to keep must not be one that a fact changes."""
        for number, text in enumerate(fact.kept):
            changed = line if text == fact.text else self.answers.get(text, (0, ""))[0]
            if changed:
                problem = f"{text!r} is a prompt to keep, but line {changed} changes its answer"
                raise FactError(f"{problem}; remove one of the two", field=f"keep.{number}")
        if fact.text in self.lines_of_kept:
            problem = f"line {self.lines_of_kept[fact.text]} asks to keep the answer of {fact.text!r}"
            raise FactError(f"{problem}; remove one of the two", field="prompt")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, numbered from 1. A byte order mark is removed."""
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
                if line.strip():
                    yield number, line
    except OSError as error:
        raise FactError(f"{path}: cannot be read: {error.strerror}") from error


def _parse(raw: bytes) -> dict[str, JsonValue]:
    try:
        record = strict_json.parse_json(raw.decode())
    except UnicodeDecodeError as error:
        raise FactError(f"expected UTF-8, found byte 0x{raw[error.start]:02x} at {error.start}") from error
    except ValueError as error:
        hint = "; is the file one JSON array? put each record on a line of its own" if raw[:1] == b"[" else ""
        raise FactError(f"expected one JSON object on the line: {error}{hint}") from error
    if not isinstance(record, dict):
        raise FactError(f"expected one JSON object on the line, found {strict_json.describe_json(record)}")
    return record


def _schema_of(record: dict[str, JsonValue]) -> Schema:
    if "requested_rewrite" in record:
        return "counterfact"
    return "zsre" if "src" in record else "native"


def _explain(error: ValidationError) -> str:
    reason = strict_json.first_complaint(error)
    if error.errors()[0]["type"] != "extra_forbidden":
        return reason
    return f"{reason}; the fields of a fact are {', '.join(FactRecord.model_fields)}"


def _field_in_file(field: str, schema: Schema) -> str:
    """The name that a schema gives to a field of Fact. The index of a list entry ("keep.2") is kept."""
    name, dot, number = field.partition(".")
    return f"{_NAMES[schema].get(name, name)}{dot}{number}"

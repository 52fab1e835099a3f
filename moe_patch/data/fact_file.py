"""Files of facts, in the native schema or that of a published data set.

A facts file has one JSON object per line, or is one JSON array of them, in UTF-8. The first record decides
which of the schemas of `moe_patch.data.schemas` the file follows. Unknown fields are an error in native
records only: the published data sets have more fields than are used here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

from pydantic import JsonValue, ValidationError

from moe_patch.data.facts import Fact, FactRecord, as_continuation, fact_json
from moe_patch.data.records import read_records
from moe_patch.data.schemas import (
    DEFAULT_ZSRE,
    RECORDS,
    REPEATING,
    FactSchema,
    FileSchema,
    ZsreSchema,
    field_in_file,
    schema_of_record,
)
from moe_patch.data.text import comparable
from moe_patch.errors import FactError
from moe_patch.io import strict_json
from moe_patch.io.files import write_text

Tokenize = Callable[[str], list[int]]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A record of a facts file that was skipped, by the line it starts on, and why."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class FactFile(Sequence[Fact]):
    """The facts of a file, the records that were skipped, and the schema of its records.

    It can be given wherever facts are asked for. Then their schema is known there, and so is in a patch that
    is built from them.
    """

    facts: tuple[Fact, ...]
    skipped: tuple[Skipped, ...]
    schema: FactSchema

    def __len__(self) -> int:
        return len(self.facts)

    @overload
    def __getitem__(self, place: int) -> Fact: ...

    @overload
    def __getitem__(self, place: slice) -> FactFile: ...

    def __getitem__(self, place: int | slice) -> Fact | FactFile:
        """A fact; or some of them, with what is known of the file."""
        return replace(self, facts=self.facts[place]) if isinstance(place, slice) else self.facts[place]


def schema_of_facts(facts: Sequence[Fact]) -> FactSchema:
    """The schema of the file that facts were read from; "native" for facts without a file."""
    return facts.schema if isinstance(facts, FactFile) else "native"


def read_facts(
    path: str | Path,
    *,
    skip_invalid: bool = False,
    tokenize: Tokenize | None = None,
    zsre: ZsreSchema = DEFAULT_ZSRE,
) -> FactFile:
    """Read a facts file of any of the schemas.

    Args:
        path: the file.
        skip_invalid: list the records that cannot be used in the result, instead of raising at the first one.
        tokenize: turns text into token ids without special tokens. If given, a target that tokenises to
            nothing is an error.
        zsre: the schema of ZsRE records, which do not say themselves what an edit is to.

    Raises:
        FactError: a record cannot be used, or the file has no usable fact. The message has the form
            `file:line: field: what was expected`.
    """
    reader = _Reader(tokenize, zsre)
    facts: list[Fact] = []
    skipped: list[Skipped] = []
    for line, raw in read_records(Path(path)):
        try:
            facts += reader.read(line, raw)
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
    """Reads one record after another, and remembers what later ones must not repeat or contradict."""

    def __init__(self, tokenize: Tokenize | None, zsre: ZsreSchema) -> None:
        self.zsre = zsre
        self.schema: FileSchema | None = None
        self.tokenize = tokenize
        self.lines_of_ids: dict[str, int] = {}
        self.answers: dict[str, tuple[int, str]] = {}
        self.lines_of_kept: dict[str, int] = {}

    def read(self, line: int, raw: bytes) -> list[Fact]:
        """The fact on this line, or none if the schema has several records for it and this is not the first.

        Raises FactError, without file and line, if the record cannot be used.
        """
        record = _parse(raw)
        schema = schema_of_record(record, self.zsre)
        if schema != (self.schema or schema):
            raise FactError(f"expected a {self.schema} record like the ones before, found a {schema} record")
        try:
            fact = RECORDS[schema].model_validate(record).fact()
            if schema in REPEATING and self._is_known(fact):
                return []
            self._check_targets(fact)
            _check_change(fact)
            self._check_new(line, fact)
        except ValidationError as error:
            raise FactError(_explain(error)) from error
        except FactError as error:
            raise FactError(error.problem, field=field_in_file(error.field, schema)) from error
        self.schema = schema
        return [fact]

    def _is_known(self, fact: Fact) -> bool:
        _, answer = self.answers.get(comparable(fact.text), (0, ""))
        return comparable(answer) == comparable(fact.target_new)

    def _check_targets(self, fact: Fact) -> None:
        for field, answer in _answers(fact):
            if self.tokenize and not self.tokenize(as_continuation(answer)):
                raise FactError(
                    f"expected at least one token, but {answer!r} tokenises to nothing", field=field
                )

    def _check_new(self, line: int, fact: Fact) -> None:
        asked = comparable(fact.text)
        if asked in self.answers:
            earlier, answer = self.answers[asked]
            if comparable(answer) == comparable(fact.target_new):
                problem = f"{fact.text!r} repeats line {earlier}; keep one of the two"
                raise FactError(problem, field="prompt")
            problem = f"{fact.target_new!r} after {fact.text!r} contradicts line {earlier}, which says"
            raise FactError(f"{problem} {answer!r}; keep one of the two", field="target_new")
        if fact.id in self.lines_of_ids:
            problem = f"{fact.id!r} is already the id of line {self.lines_of_ids[fact.id]}"
            raise FactError(problem, field="id")
        self._check_kept(line, fact)
        self.answers[asked] = line, fact.target_new
        self.lines_of_ids[fact.id] = line
        self.lines_of_kept |= dict.fromkeys(map(comparable, fact.kept), line)

    def _check_kept(self, line: int, fact: Fact) -> None:
        """A prompt to keep must not be one that a fact changes."""
        asked = comparable(fact.text)
        for number, text in enumerate(fact.kept):
            kept = comparable(text)
            changed = line if kept == asked else self.answers.get(kept, (0, ""))[0]
            if changed:
                problem = f"{text!r} is a prompt to keep, but line {changed} changes its answer"
                raise FactError(f"{problem}; remove one of the two", field=f"keep.{number}")
        if asked in self.lines_of_kept:
            problem = f"line {self.lines_of_kept[asked]} asks to keep the answer of {fact.text!r}"
            raise FactError(f"{problem}; remove one of the two", field="prompt")


def _answers(fact: Fact) -> Iterator[tuple[str, str]]:
    """Every answer of a fact, with its field."""
    yield "target_new", fact.target_new
    if fact.target_true is not None:
        yield "target_true", fact.target_true
    for number, answer in enumerate(fact.neighborhood_answers):
        yield f"neighborhood_answers.{number}", answer
    for number, implied in enumerate(fact.portability):
        yield f"portability.{number}.answer", implied.answer


def _check_change(fact: Fact) -> None:
    """Refuse a new answer that is the true one: neither can be likelier, so it would count as missed."""
    if fact.changes_nothing:
        problem = f"{fact.target_new!r} is target_true as well, so nothing would change; leave the fact out"
        raise FactError(problem, field="target_new")


def _parse(raw: bytes) -> dict[str, JsonValue]:
    try:
        record = strict_json.parse_json(raw.decode())
    except UnicodeDecodeError as error:
        raise FactError(f"expected UTF-8, found byte 0x{raw[error.start]:02x} at {error.start}") from error
    except ValueError as error:
        raise FactError(f"expected one JSON object: {error}") from error
    if not isinstance(record, dict):
        raise FactError(f"expected one JSON object, found {strict_json.describe_json(record)}")
    return record


def _explain(error: ValidationError) -> str:
    reason = strict_json.first_complaint(error)
    if error.errors()[0]["type"] != "extra_forbidden":
        return reason
    return f"{reason}; the fields of a fact are {', '.join(FactRecord.model_fields)}"

"""Files of facts, in the native schema or that of a published data set.

A facts file is JSON, a table or a text (`moe_patch.data.formats`). The first record decides which of the
schemas of `moe_patch.data.schemas` the file follows. Unknown fields are an error in native records only: the
published data sets have more fields than are used here. Records that do not tell prompt, subject and new
answer apart are understood when all of the file has been read, since its lines explain each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import overload

from pydantic import JsonValue, ValidationError

from moe_patch.data.checks import FactChecks, Tokenize
from moe_patch.data.drafts import Draft, draft_of
from moe_patch.data.facts import Chain, Fact, FactRecord, fact_json
from moe_patch.data.formats import read_entries
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
from moe_patch.data.understanding.guide import Guide, Origin, Understanding
from moe_patch.errors import FactError, UnclearFact
from moe_patch.io import strict_json
from moe_patch.io.files import write_text

_MOST_LISTED = 10  # lines that an error lists
_REPORTED = 20  # texts between two reports of progress


@dataclass(frozen=True, slots=True)
class Skipped:
    """A record of a facts file that was skipped, by the line it starts on, and why."""

    line: int
    reason: str
    candidates: tuple[str, ...] = ()  # what its subject or its answer could be, if that is not clear


@dataclass(frozen=True, slots=True)
class FactFile(Sequence[Fact]):
    """The facts of a file, the records that were skipped, and the schema of its records.

    It can be given wherever facts are asked for. Then their schema is known there, and so is in a patch that
    is built from them.
    """

    facts: tuple[Fact, ...]
    skipped: tuple[Skipped, ...]
    schema: FactSchema
    lines: tuple[int, ...] = field(default=(), compare=False)  # one for each fact: where its record starts
    origins: tuple[Origin, ...] = field(default=(), compare=False)  # one for each fact: how it was understood

    def __len__(self) -> int:
        return len(self.facts)

    @overload
    def __getitem__(self, place: int) -> Fact: ...

    @overload
    def __getitem__(self, place: slice) -> FactFile: ...

    def __getitem__(self, place: int | slice) -> Fact | FactFile:
        """A fact; or some of them, with what is known of the file."""
        if not isinstance(place, slice):
            return self.facts[place]
        return replace(self, facts=self.facts[place], lines=self.lines[place], origins=self.origins[place])

    @property
    def understood(self) -> int:
        """How many facts were not given in parts, but found in a text."""
        return sum(origin != Origin() for origin in self.origins)


def schema_of_facts(facts: Sequence[Fact]) -> FactSchema:
    """The schema of the file that facts were read from; "native" for facts without a file."""
    return facts.schema if isinstance(facts, FactFile) else "native"


def read_facts(
    path: str | Path,
    *,
    skip_invalid: bool = False,
    tokenize: Tokenize | None = None,
    zsre: ZsreSchema = DEFAULT_ZSRE,
    understanding: Understanding | None = None,
) -> FactFile:
    """Read a facts file of any form and any of the schemas.

    Args:
        path: the file.
        skip_invalid: list the records that cannot be used in the result, instead of raising at the first one.
        tokenize: turns text into token ids without special tokens. If given, a target that tokenises to
            nothing is an error.
        zsre: the schema of ZsRE records, which do not say themselves what an edit is to.
        understanding: what may be done, beside the rules, to understand records without a subject.

    Raises:
        FactError: a record cannot be used, or the file has no usable fact. The message has the form
            `file:line: field: what was expected`.
        UnclearFact: what the subject or the answer of a record is, is not clear.
    """
    reader = _Reader(tokenize, zsre)
    read = _read(Path(path), reader, understanding or Understanding(), skip_invalid=skip_invalid)
    if not read.facts:
        tail = f"; line {read.skipped[0].line}: {read.skipped[0].reason}" if read.skipped else ""
        raise FactError(f"{path}: expected at least one fact, found none{tail}")
    return read


def scan_facts(
    path: str | Path, *, zsre: ZsreSchema = DEFAULT_ZSRE, understanding: Understanding | None = None
) -> FactFile:
    """As `read_facts` with `skip_invalid`, but a file without any usable fact is no error.

    Raises:
        FactError: the file cannot be read.
    """
    return _read(Path(path), _Reader(None, zsre), understanding or Understanding(), skip_invalid=True)


def _read(path: Path, reader: _Reader, understanding: Understanding, *, skip_invalid: bool) -> FactFile:
    found: list[tuple[int, Fact, Origin]] = []
    drafts: list[Draft] = []
    skipped: list[Skipped] = []
    for line, record in read_entries(path):
        try:
            if isinstance(record, FactError):
                raise record
            read = reader.read(line, record)
        except FactError as error:
            if not skip_invalid:
                raise FactError(f"{path}:{line}: {error}") from error
            skipped.append(Skipped(line, str(error)))
            continue
        if isinstance(read, Draft):
            drafts.append(read)
        elif read is not None:
            found.append((line, read, Origin()))
    guide = Guide(understanding)
    guide.learn((draft.learned for draft in drafts), (fact for _, fact, _ in found) if drafts else ())
    understood, unclear = _understand(path, reader, drafts, guide, skip_invalid=skip_invalid)
    found = sorted([*found, *understood], key=lambda entry: entry[0])
    return FactFile(
        facts=tuple(reader.whole(fact) for _, fact, _ in found),
        skipped=tuple(sorted([*skipped, *unclear], key=lambda entry: entry.line)),
        schema=reader.schema or "native",
        lines=tuple(line for line, _, _ in found),
        origins=tuple(origin for _, _, origin in found),
    )


def _understand(
    path: Path, reader: _Reader, drafts: Sequence[Draft], guide: Guide, *, skip_invalid: bool
) -> tuple[list[tuple[int, Fact, Origin]], list[Skipped]]:
    """The facts of drafts, and those that cannot be used. All that are unclear make one error."""
    found: list[tuple[int, Fact, Origin]] = []
    skipped: list[Skipped] = []
    unclear: list[tuple[int, UnclearFact]] = []
    for number, draft in enumerate(drafts):
        if guide.options.progress is not None and number % _REPORTED == 0:
            guide.options.progress("texts", number, len(drafts))
        try:
            found.append((draft.line, *reader.finish(draft, guide)))
        except FactError as error:
            if isinstance(error, UnclearFact):
                unclear.append((draft.line, error))
            elif not skip_invalid:
                raise FactError(f"{path}:{draft.line}: {error}") from error
            candidates = error.candidates if isinstance(error, UnclearFact) else ()
            skipped.append(Skipped(draft.line, str(error), candidates))
    if unclear and not skip_invalid:
        raise _all_unclear(path, unclear, len(drafts))
    return found, skipped


def _all_unclear(path: Path, unclear: Sequence[tuple[int, UnclearFact]], among: int) -> UnclearFact:
    """The error for all texts of a file that are not clear: the first in full, the others by their lines."""
    (line, first), *others = unclear
    problem = f"{path}:{line}: {first}"
    if others:
        listed = ", ".join(str(number) for number, _ in others[:_MOST_LISTED])
        more = ", ..." if len(others) > _MOST_LISTED else ""
        problem += f"; {len(unclear)} of {among} texts are unclear, also those of lines {listed}{more}"
    problem += f"; `moe-patch facts check {path}` shows how each line is understood"
    return UnclearFact(problem, field="", candidates=first.candidates)


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
        self._checks = FactChecks(tokenize)
        self._more_chains: dict[str, list[Chain]] = {}  # of records after a fact's first, by what it asks

    def read(self, line: int, record: Mapping[str, JsonValue]) -> Fact | Draft | None:
        """The fact on this line, or a draft that is to be understood first.

        There is none if the schema has several records for one fact and this is not the first of them.
        Raises FactError, without file and line, if the record cannot be used.
        """
        schema = schema_of_record(record, self.zsre)
        if schema != (self.schema or schema):
            raise FactError(f"expected a {self.schema} record like the ones before, found a {schema} record")
        draft = draft_of(line, record) if schema == "native" else None
        if draft is not None:
            self.schema = schema
            return draft
        try:
            fact = RECORDS[schema].model_validate(record).fact()
            if schema in REPEATING and self._checks.is_known(fact):
                self._more_chains.setdefault(comparable(fact.text), []).extend(fact.chains)
                return None
            self._checks.add(line, fact)
        except ValidationError as error:
            raise FactError(_explain(error)) from error
        except FactError as error:
            raise FactError(error.problem, field=field_in_file(error.field, schema)) from error
        self.schema = schema
        return fact

    def whole(self, fact: Fact) -> Fact:
        """The fact with the chains of all its records."""
        more = self._more_chains.get(comparable(fact.text))
        return replace(fact, chains=tuple(dict.fromkeys((*fact.chains, *more)))) if more else fact

    def finish(self, draft: Draft, guide: Guide) -> tuple[Fact, Origin]:
        """The fact of a draft, and how it was understood. Raises as `read` does."""
        try:
            record, origin = draft.complete(guide)
            fact = record.fact()
        except ValidationError as error:
            raise FactError(_explain(error)) from error
        self._checks.add(draft.line, fact)
        return fact, origin


def _explain(error: ValidationError) -> str:
    reason = strict_json.first_complaint(error)
    if error.errors()[0]["type"] != "extra_forbidden":
        return reason
    return f"{reason}; the fields of a fact are {', '.join(FactRecord.model_fields)}"

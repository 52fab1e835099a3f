"""The facts of a build, as a file or as they are, and what there is to say about how they were read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from moe_patch.base.model import Base
from moe_patch.data.fact_file import FactFile, read_facts
from moe_patch.data.schemas import DEFAULT_ZSRE, ZSRE_SCHEMAS, ZsreSchema
from moe_patch.data.understanding.guide import Understanding
from moe_patch.data.understanding.subjects import SubjectBy
from moe_patch.errors import ConfigError
from moe_patch.io.wording import counted
from moe_patch.patch import Patch

_ZSRE = {"zsre-alt": "alt", "zsre-answers": "the first of `answers`"}
"""What ZsRE records edit to, by convention: papers differ in it, and the records do not tell."""

_WAYS: dict[SubjectBy, str] = {
    "given": "subject given",
    "brackets": "subject in brackets",
    "name": "subject by its name",
    "grammar": "subject by grammar",
    "other lines": "subject by other lines",
    "asked": "subject by asking",
    "whole prompt": "prompt without a subject",
}


def read_edits(
    path: Path,
    *,
    schema: ZsreSchema | None = None,
    skip_invalid: bool = False,
    base: Base | None = None,
    built: Patch | None = None,
    whole_prompt: bool = False,
) -> FactFile:
    """Read a facts file. With a base, also refuse answers that its tokenizer turns into no tokens.

    Args:
        path: the file.
        schema: of ZsRE records; None for that of the facts that `built` was built from, or for the usual one.
        skip_invalid: list the records that cannot be used, instead of raising at the first one.
        base: the model.
        built: a patch that is asked or evaluated.
        whole_prompt: take all of a prompt as its subject where that is not clear; so it is also for a patch
            that edits last tokens.

    Raises:
        FactError: a record cannot be used, or the file has no usable fact.
        UnclearFact: the subject or the answer of a record is not clear.
        ConfigError: a schema is given, but the file has no ZsRE records.
    """

    def tokenize(text: str) -> list[int]:
        assert base is not None
        return base.reader.read_fragment(text)

    as_built = next((known for known in ZSRE_SCHEMAS if built and known == built.schema), DEFAULT_ZSRE)
    zsre = schema or as_built
    read = read_facts(
        path,
        skip_invalid=skip_invalid,
        tokenize=tokenize if base else None,
        zsre=zsre,
        understanding=Understanding(
            whole_prompt=whole_prompt or (built is not None and built.edits_last_token)
        ),
    )
    if schema is not None and read.schema != schema:
        raise ConfigError(f"--schema {schema} is for ZsRE records, but {path} has {read.schema} records")
    return read


def notes_on(read: FactFile, path: Path) -> Iterator[str]:
    """What a user should know of how the file was read, one line each."""
    for skipped in read.skipped:
        yield f"Skipped line {skipped.line}: {skipped.reason}"
    if read.skipped:
        yield f"{_were(len(read.skipped))} skipped; {counted(len(read.facts), 'fact')} left."
    yield from _how_understood(read, path)
    if read.schema in _ZSRE:
        other = next(schema for schema in _ZSRE if schema != read.schema)
        told = f"{path}: ZsRE records, read as {read.schema}: the new answer is {_ZSRE[read.schema]}"
        yield f"{told}; --schema {other} takes {_ZSRE[other]}"


def _how_understood(read: FactFile, path: Path) -> Iterator[str]:
    """Nothing of a file whose records have all parts."""
    if not read.understood:
        return
    ways = Counter(origin.subject for origin in read.origins if origin.subject != "given")
    split = sum(origin.answer != "given" for origin in read.origins)
    parts = [_subjects(count, _WAYS[way]) for way, count in ways.most_common()]
    parts += [f"{counted(split, 'answer')} in sentences"] if split else []
    shown = f"`moe-patch facts check {path}` shows each"
    yield f"{path}: {read.understood} of {_were(len(read))} understood ({', '.join(parts)}); {shown}"
    if whole := ways["whole prompt"]:
        are, whose = ("is", "its prompt") if whole == 1 else ("are", "their prompts")
        facts = f"{counted(whole, 'fact')} without a clear subject"
        yield f"{path}: {facts} {are} edited at the last token of {whose}"


def _were(facts: int) -> str:
    return f"{counted(facts, 'fact')} {'was' if facts == 1 else 'were'}"


def _subjects(count: int, way: str) -> str:
    """A number of subjects that were found in one way: "2 subjects by grammar"."""
    noun, _, how = way.partition(" ")
    return f"{counted(count, noun)} {how}"

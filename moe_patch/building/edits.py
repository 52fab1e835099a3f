"""The facts of a build, as a file or as they are, and what there is to say about how they were read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from moe_patch.base.model import Base
from moe_patch.data.fact_file import FactFile, read_facts
from moe_patch.data.schemas import DEFAULT_ZSRE, ZSRE_SCHEMAS, ZsreSchema
from moe_patch.errors import ConfigError
from moe_patch.patch import Patch

_ZSRE = {"zsre-alt": "alt", "zsre-answers": "the first of `answers`"}
"""What ZsRE records edit to, by convention: papers differ in it, and the records do not tell."""


def read_edits(
    path: Path,
    *,
    schema: ZsreSchema | None = None,
    skip_invalid: bool = False,
    base: Base | None = None,
    built: Patch | None = None,
) -> FactFile:
    """Read a facts file. With a base, also refuse answers that its tokenizer turns into no tokens.

    Args:
        path: the file.
        schema: of ZsRE records; None for that of the facts that `built` was built from, or for the usual one.
        skip_invalid: list the records that cannot be used, instead of raising at the first one.
        base: the model.
        built: a patch that is asked or evaluated.

    Raises:
        FactError: a record cannot be used, or the file has no usable fact.
        ConfigError: a schema is given, but the file has no ZsRE records.
    """

    def tokenize(text: str) -> list[int]:
        assert base is not None
        return base.reader.read_fragment(text)

    as_built = next((known for known in ZSRE_SCHEMAS if built and known == built.schema), DEFAULT_ZSRE)
    zsre = schema or as_built
    read = read_facts(path, skip_invalid=skip_invalid, tokenize=tokenize if base else None, zsre=zsre)
    if schema is not None and read.schema != schema:
        raise ConfigError(f"--schema {schema} is for ZsRE records, but {path} has {read.schema} records")
    return read


def notes_on(read: FactFile, path: Path) -> Iterator[str]:
    """What a user should know of how the file was read, one line each."""
    for skipped in read.skipped:
        yield f"Skipped line {skipped.line}: {skipped.reason}"
    if read.skipped:
        yield f"{len(read.skipped)} facts were skipped; {len(read.facts)} are left."
    if read.schema in _ZSRE:
        other = next(schema for schema in _ZSRE if schema != read.schema)
        told = f"{path}: ZsRE records, read as {read.schema}: the new answer is {_ZSRE[read.schema]}"
        yield f"{told}; --schema {other} takes {_ZSRE[other]}"

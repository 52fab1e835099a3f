"""`moe_patch.json`: which patches a merged folder holds, and what is needed to take them out again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue, ValidationError

from moe_patch.apply.weights.survival import Survival
from moe_patch.errors import ModelError
from moe_patch.io import strict_json
from moe_patch.io.closed_schema import ClosedSchema
from moe_patch.io.ranges import Label, Text
from moe_patch.io.reading import read_text
from moe_patch.patch import Patch
from moe_patch.patch.base_record import BaseRecord, Sha256
from moe_patch.patch.schema import Kind

RECORD = "moe_patch.json"

_MAX_BYTES = 256 * 2**20  # ids of all facts, and the records of earlier merges


FileName = Annotated[str, Field(pattern=r"^[^/\\\x00]{1,251}\.safetensors$")]
"""A file in the folder itself, and no path: the record may come from a stranger."""

OriginalsName = Annotated[str, Field(pattern=r"^moe_patch/originals-[0-9a-f]{16}\.safetensors$")]


class PatchRecord(ClosedSchema):
    """A patch that is merged into the weights."""

    hash: Sha256
    kind: Kind
    method: Label
    created: Label
    facts: list[Text]  # their ids
    lost: dict[str, float]  # share of the edit that rounding lost, of the worst and of the median fact


class FileRecord(ClosedSchema):
    """A rewritten file as it was before the merge."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # as sha256sum prints it


class Record(ClosedSchema):
    """A merged checkpoint."""

    format: Literal[1, 2] = 2
    base: BaseRecord
    base_name: Text  # a whole path, a name on the Hub, or the demo model's name
    patches: list[PatchRecord]  # in the order in which they were added
    rewritten: dict[FileName, FileRecord]
    originals: OriginalsName | None  # the file with the original bytes of patched experts, if they were kept
    result: Sha256 | None = None  # the root of the result's fingerprint; none in format 1
    before: str | None  # the text of the base's own record, if the base was a merged checkpoint itself

    def text(self) -> str:
        """The text of the record's file."""
        return json.dumps(self.model_dump(), indent=2, ensure_ascii=False) + "\n"


def patch_record(patch: Patch, survival: Survival) -> PatchRecord:
    """What the record says about a patch."""
    return PatchRecord(
        hash=patch.hash,
        kind=patch.kind,
        method=patch.method,
        created=patch.created,
        facts=[fact.id for fact in patch.facts],
        lost=survival.lost(),
    )


def find_record(folder: Path) -> Record | None:
    """The record of a merged folder, or None for another folder.

    Raises:
        ModelError: the record does not follow the schema.
    """
    return read_record(folder) if (folder / RECORD).exists() else None


def read_record(folder: Path) -> Record:
    """The record of a merged folder.

    Raises:
        ModelError: there is none, or it does not follow the schema.
    """
    path = folder / RECORD
    try:
        value: JsonValue = strict_json.parse_json(read_text(path, _MAX_BYTES))
        return Record.model_validate(value)
    except FileNotFoundError:
        raise ModelError(f"{folder} has no {RECORD}: it is not a merged checkpoint") from None
    except ValidationError as error:
        raise ModelError(f"{path}: {strict_json.first_complaint(error)}") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error

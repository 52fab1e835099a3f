"""`moe_patch.json`: what a merged folder says of itself, and what taking the patches out again needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue, ValidationError

from moe_patch.apply.weights.survival import Survival
from moe_patch.errors import ModelError
from moe_patch.io import strict_json
from moe_patch.io.closed_schema import ClosedSchema
from moe_patch.patch import Patch
from moe_patch.patch.schema import BaseRecord, Kind, Sha256

RECORD = "moe_patch.json"


class PatchRecord(ClosedSchema):
    """A patch that is in the weights."""

    hash: Sha256
    kind: Kind
    method: str
    created: str
    facts: list[str]  # their ids
    lost: dict[str, float]  # share of the edit that rounding took: of the worst fact, and of the median one


class FileRecord(ClosedSchema):
    """A file that was rewritten: what it was before."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # as sha256sum prints it


class Record(ClosedSchema):
    """A merged checkpoint: from which base, with which patches in order, and which files it rewrote.

    `originals` names the file that keeps what the patched experts were, if it was kept. `before` is the text
    of the record that the base had, if it was a merged checkpoint itself.
    """

    format: Literal[1] = 1
    base: BaseRecord
    base_name: str
    patches: list[PatchRecord]
    rewritten: dict[str, FileRecord]
    originals: str | None
    before: str | None

    def text(self) -> str:
        """The record as a file holds it."""
        return json.dumps(self.model_dump(), indent=2, ensure_ascii=False) + "\n"


def patch_record(patch: Patch, survival: Survival) -> PatchRecord:
    """What the record says of a patch."""
    return PatchRecord(
        hash=patch.hash,
        kind=patch.kind,
        method=patch.method,
        created=patch.created,
        facts=[fact.id for fact in patch.facts],
        lost=survival.lost(),
    )


def read_record(folder: Path) -> Record:
    """The record of a merged folder; ModelError where there is none, or none that this library wrote."""
    path = folder / RECORD
    try:
        value: JsonValue = strict_json.parse_json(path.read_text(encoding="utf-8"))
        return Record.model_validate(value)
    except FileNotFoundError:
        raise ModelError(f"{folder} has no {RECORD}: it is no merged checkpoint") from None
    except ValidationError as error:
        raise ModelError(f"{path}: {strict_json.first_complaint(error)}") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error

"""One run as a JSON file: everything that it was made of, and everything that was measured.

A record is written when its run is over, whole or not at all. Its key is a hash of what the figures follow
from but for the weights, and the weights' hash stands in it: a run whose record fits is not run again.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, ValidationError

from moe_patch.bench.suite import Mode
from moe_patch.errors import ConfigError, OutputError
from moe_patch.io import strict_json
from moe_patch.io.closed_schema import ClosedSchema
from moe_patch.io.files import write_text
from moe_patch.io.reading import read_text

FORMAT = 1
MAX_BYTES = 64 * 2**20
"""The longest record that is read."""

Figures = dict[str, float | None]


class RunData(ClosedSchema):
    """The facts of a run."""

    name: str
    records: str  # their schema
    facts: int
    hash: str


class RunBase(ClosedSchema):
    """The model of a run."""

    name: str
    root: str  # of its fingerprint
    dtype: str
    device: str
    layers: int  # with experts
    experts: int  # of the largest of them; 0 for a dense model


class RunSize(ClosedSchema):
    """What the patch of a run holds; means over the patches of single edits."""

    bytes: float  # of its file
    experts: float  # that it changes
    rank: float | None  # that an adapter needs; None where it has none


class RunRecord(ClosedSchema):
    """One run."""

    format: Literal[1]
    key: str
    status: Literal["done", "failed"]
    error: str | None = None
    suite: str
    arm: str
    method: str
    kind: str
    rival: bool
    mode: Mode
    batch_size: int | None
    seed: int
    varied: dict[str, JsonValue] = Field(default_factory=dict)
    data: RunData
    base: RunBase
    config: dict[str, JsonValue]  # what was asked for, and the options that followed, with their sources
    versions: dict[str, str]
    created: str
    evaluation: dict[str, JsonValue] | None = None  # of `EvaluationReport.to_json`
    curve: list[Figures] = Field(default_factory=list)
    seconds: dict[str, float] = Field(default_factory=dict)  # by stage; "build" is all of the build
    memory: dict[str, int | None] | None = None  # bytes
    size: RunSize | None = None
    perplexity: dict[str, JsonValue] | None = None
    buckets: list[dict[str, JsonValue]] = Field(default_factory=list)
    convergence: dict[str, list[list[float]]] = Field(default_factory=dict)  # objectives by layer and batch
    texts: list[dict[Annotated[str, Field(max_length=20)], str | None]] = Field(default_factory=list)


def run_key(parts: dict[str, Any]) -> str:
    """A hash of what a run's figures follow from."""
    return hashlib.sha256(strict_json.canonical_json(parts).encode()).hexdigest()[:16]


def record_path(folder: Path, record_name: str, key: str) -> Path:
    """The file of a run: its name in a form that any file system takes, and its key."""
    slug = re.sub(r"[^a-z0-9.=]+", "-", record_name.lower()).strip("-.")[:120]
    return folder / f"{slug}-{key}.json"


def write_record(path: Path, record: dict[str, Any]) -> RunRecord:
    """Check a record and write it, whole or not at all.

    Raises:
        OutputError: the operating system refuses to write.
    """
    checked = RunRecord.model_validate(record)
    text = strict_json.canonical_json(checked.model_dump(mode="json"))
    write_text(path, f"{text}\n")
    return checked


def read_record(path: Path) -> RunRecord:
    """The record in a file.

    Raises:
        ConfigError: the file cannot be read, or it is no record of a run.
    """
    try:
        return RunRecord.model_validate(strict_json.parse_json(read_text(path, MAX_BYTES)))
    except OSError as error:
        raise ConfigError(f"cannot read the run {path}: {error.strerror}") from error
    except ValueError as error:
        reason = strict_json.first_complaint(error) if isinstance(error, ValidationError) else str(error)
        raise ConfigError(
            f"{path} is no run of a bench: {reason}; expected a file that moe-patch bench wrote, or what "
            "moe-patch eval --json has printed"
        ) from error


def read_records(folder: Path) -> list[RunRecord]:
    """The records in a folder, in the order in which they were begun.

    Raises:
        ConfigError: the folder cannot be read, a file in it is no record, or there is none.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".json")
    except OSError as error:
        raise ConfigError(f"cannot read the runs in {folder}: {error.strerror}") from error
    if not paths:
        raise ConfigError(f"{folder} has no runs: expected a folder that moe-patch bench has written")
    return sorted(map(read_record, paths), key=lambda record: record.created)


def make_folder(folder: Path) -> None:
    """Make the folder of the runs, unless it is there.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}") from error

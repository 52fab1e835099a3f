"""What a stack's lock file holds, and its text.

    format = 1
    revision = 3
    combine = "solve"

    [base]
    model_type = "qwen3_moe"
    config = "sha256:..."
    index = "sha256:..."

    [base.layers.2]
    experts = "sha256:..."
    shape = [
        128,
        2048,
        768,
    ]

    [[patch]]
    path = "capitals.safetensors"
    hash = "sha256:..."
    enabled = true

Patches are in order, the lowest first. Their paths are relative to the lock file's folder, with forward
slashes, unless they are on another drive. `base` covers the layers of all patches; an empty stack has none.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

import tomli_w
from pydantic import Field, ValidationError, model_validator

from moe_patch.errors import StackError
from moe_patch.io import strict_json
from moe_patch.io.closed_schema import ClosedSchema
from moe_patch.patch.base_record import BaseRecord, Sha256
from moe_patch.patch.member import Member

Combine = Literal["add", "solve"]
"""How patches are combined: add their deltas, or solve one ridge problem for all their facts."""

_HEAD = "# A stack of patches, kept by `moe-patch stack`; docs/stacks.md says what each line means.\n"


class Entry(ClosedSchema):
    """One patch of a stack: its file, the content hash it must have, and whether it is enabled."""

    path: Annotated[str, Field(min_length=1, max_length=4096)]
    hash: Sha256
    enabled: bool = True


class Lock(ClosedSchema):
    """A stack. `revision` counts its changes."""

    format: Literal[1] = 1
    revision: Annotated[int, Field(ge=0, lt=2**53)] = 0
    combine: Combine = "solve"
    base: BaseRecord | None = None
    patch: Annotated[list[Entry], Field(max_length=10_000)] = Field(default_factory=list)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        hashes = [entry.hash for entry in self.patch]
        if len(set(hashes)) < len(hashes):
            raise ValueError("patch: expected every hash once")
        if bool(self.patch) != (self.base is not None):
            raise ValueError("base: expected with patches, and without any not at all")
        return self


def lock_members(lock: Lock) -> list[Member[Entry]]:
    """All patches of a stack in order, enabled or not.

    A patch's name is its file name without the ending, or the whole path if two file names are equal.
    """
    paths = [entry.path for entry in lock.patch]
    short = [path.rpartition("/")[2].removesuffix(".safetensors") for path in paths]
    names = [name if short.count(name) == 1 else path for name, path in zip(short, paths, strict=True)]
    numbered = enumerate(zip(names, lock.patch, strict=True), start=1)
    return [Member(name, entry, number) for number, (name, entry) in numbered]


def patch_path(entry: Entry, lock_path: Path) -> Path:
    """The path of an entry's file."""
    return lock_path.parent / entry.path


def parse_lock(text: str) -> Lock:
    """Parse the text of a lock file.

    Raises:
        StackError: the text is not TOML or not a lock; the message names the field.
    """
    try:
        return Lock.model_validate(tomllib.loads(text))
    except ValidationError as error:
        raise StackError(f"is not a stack: {strict_json.first_complaint(error)}") from error
    except (ValueError, RecursionError) as error:  # also numbers and nesting that Python's parser gives up on
        raise StackError(f"is not TOML: {error}") from error


def lock_text(lock: Lock) -> str:
    """The lock as TOML. The same lock always gives the same text."""
    values = lock.model_dump(exclude_none=True)
    if lock.base is not None:
        layers = values["base"]["layers"]
        values["base"]["layers"] = {layer: layers[layer] for layer in sorted(layers, key=int)}  # 2 before 10
    if not lock.patch:
        del values["patch"]
    return _HEAD + tomli_w.dumps(values)

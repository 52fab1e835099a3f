"""The patches of a stack, read from their files and held to their hashes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from moe_patch.errors import HashMismatch, MoePatchError
from moe_patch.patch import Patch, load
from moe_patch.patch.schema import BaseRecord
from moe_patch.stack.lockfile import Entry, Lock
from moe_patch.stack.operations import join_bases


@dataclass(frozen=True, slots=True, eq=False)
class Stacked:
    """A patch of a stack: its number, from 1, what it is called in reports, and itself."""

    number: int
    name: str
    patch: Patch


def entry_for(path: Path, patch: Patch, lock_path: Path) -> Entry:
    """The entry of a patch file in the lock file at `lock_path`."""
    return Entry(path=_relative(path, lock_path), hash=patch.hash)


def base_record(patch: Patch) -> BaseRecord:
    """The base of a patch as a lock file has it."""
    return BaseRecord.model_validate(patch.body()["base"])


def patch_path(entry: Entry, lock_path: Path) -> Path:
    """Where the file of an entry is."""
    return lock_path.parent / entry.path


def load_entry(entry: Entry, lock: Lock, lock_path: Path) -> Patch:
    """The patch of an entry.

    Raises a PatchError where the file is damaged, HashMismatch where it is another patch than the lock
    names, WrongBase where it was built for another base.
    """
    path = patch_path(entry, lock_path)
    patch = load(path)
    found = patch.hash
    if found != entry.hash:
        raise HashMismatch(f"{path}: is the patch {found}, but the stack was locked with {entry.hash}")
    assert lock.base is not None  # a lock with patches has one
    join_bases(lock.base, base_record(patch), entry.path)
    return patch


def load_enabled(lock: Lock, lock_path: Path) -> list[Stacked]:
    """The patches of the stack that are on, the lowest first; raises as `load_entry` does."""
    return [
        Stacked(number, name, load_entry(entry, lock, lock_path))
        for number, (name, entry) in enumerate(
            zip(member_names(lock.patch), lock.patch, strict=True), start=1
        )
        if entry.enabled
    ]


def try_entries(lock: Lock, lock_path: Path) -> tuple[list[Stacked], dict[int, MoePatchError]]:
    """The patches that are on and can be read, and by number what is wrong with each of the others."""
    good: list[Stacked] = []
    bad: dict[int, MoePatchError] = {}
    for number, (name, entry) in enumerate(zip(member_names(lock.patch), lock.patch, strict=True), start=1):
        try:
            patch = load_entry(entry, lock, lock_path)
        except MoePatchError as error:
            bad[number] = error
        else:
            if entry.enabled:
                good.append(Stacked(number, name, patch))
    return good, bad


def member_names(entries: Iterable[Entry]) -> list[str]:
    """What to call patches: the file's name without its ending, or the whole path where names repeat."""
    paths = [entry.path for entry in entries]
    short = [path.rpartition("/")[2].removesuffix(".safetensors") for path in paths]
    return [name if short.count(name) == 1 else path for name, path in zip(short, paths, strict=True)]


def _relative(path: Path, lock_path: Path) -> str:
    """`path` as seen from the lock file's folder, or as it is where no way leads there."""
    try:
        return Path(os.path.relpath(path, lock_path.parent)).as_posix()
    except ValueError:  # another drive
        return path.resolve().as_posix()

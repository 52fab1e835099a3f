"""The patches of a stack, read from their files and held to their hashes."""

from __future__ import annotations

import os
from pathlib import Path

from moe_patch.errors import HashMismatch, MoePatchError
from moe_patch.patch import Patch, load
from moe_patch.patch.member import Member
from moe_patch.patch.schema import BaseRecord
from moe_patch.stack.lockfile import Entry, Lock, lock_members
from moe_patch.stack.operations import join_bases

Stacked = Member[Patch]
"""A patch of a stack, read."""


def entry_for(path: Path, patch: Patch, lock_path: Path) -> Entry:
    """The entry of a patch file in the lock file at `lock_path`."""
    return Entry(path=_relative(path, lock_path), hash=patch.hash)


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
    if patch.hash != entry.hash:
        raise HashMismatch(f"{path}: is the patch {patch.hash}, but the stack was locked with {entry.hash}")
    assert lock.base is not None  # a lock with patches has one
    join_bases(lock.base, BaseRecord.of(patch.base), entry.path)
    return patch


def load_enabled(lock: Lock, lock_path: Path) -> list[Stacked]:
    """The patches of the stack that are on, the lowest first; raises as `load_entry` does."""
    return [
        Stacked(listed.name, load_entry(listed.patch, lock, lock_path), listed.number)
        for listed in lock_members(lock)
        if listed.patch.enabled
    ]


def try_entries(lock: Lock, lock_path: Path) -> tuple[list[Stacked], dict[int, MoePatchError]]:
    """The patches that are on and can be read, and by number what is wrong with each of the others."""
    good: list[Stacked] = []
    bad: dict[int, MoePatchError] = {}
    for listed in lock_members(lock):
        try:
            patch = load_entry(listed.patch, lock, lock_path)
        except MoePatchError as error:
            bad[listed.number] = error
        else:
            if listed.patch.enabled:
                good.append(Stacked(listed.name, patch, listed.number))
    return good, bad


def _relative(path: Path, lock_path: Path) -> str:
    """`path` as seen from the lock file's folder, or as it is where no way leads there."""
    try:
        return Path(os.path.relpath(path, lock_path.parent)).as_posix()
    except ValueError:  # another drive
        return path.resolve().as_posix()

"""The patches of a stack, read from their files and checked against the locked hashes."""

from __future__ import annotations

import os
from pathlib import Path

from moe_patch.errors import HashMismatch, MoePatchError
from moe_patch.patch import Patch, load
from moe_patch.patch.base_record import BaseRecord
from moe_patch.patch.member import Member
from moe_patch.stack.lockfile import Entry, Lock, lock_members, patch_path
from moe_patch.stack.operations import join_bases

Stacked = Member[Patch]
"""A patch of a stack that has been read from its file."""


def entry_for(path: Path, patch: Patch, lock_path: Path) -> Entry:
    """The lock file entry for a patch file; the lock file is at `lock_path`."""
    return Entry(path=_relative(path, lock_path), hash=patch.hash)


def load_entry(entry: Entry, lock: Lock, lock_path: Path) -> Patch:
    """Read the patch of an entry.

    Raises:
        PatchError: the file is damaged.
        HashMismatch: the file holds another patch than the locked one.
        WrongBase: the patch was built for another base.
    """
    path = patch_path(entry, lock_path)
    patch = load(path)
    if patch.hash != entry.hash:
        raise HashMismatch(f"{path}: is the patch {patch.hash}, but the stack was locked with {entry.hash}")
    assert lock.base is not None  # a lock with patches has one
    join_bases(lock.base, BaseRecord.of(patch.base), entry.path)
    return patch


def load_enabled(lock: Lock, lock_path: Path) -> list[Stacked]:
    """Read the enabled patches of the stack, the lowest first.

    Raises:
        PatchError: a file is damaged, is not the locked one, or belongs to another base; see `load_entry`.
    """
    return [
        Stacked(listed.name, load_entry(listed.patch, lock, lock_path), listed.number)
        for listed in lock_members(lock)
        if listed.patch.enabled
    ]


def try_entries(lock: Lock, lock_path: Path) -> tuple[list[Stacked], dict[int, MoePatchError]]:
    """The enabled patches that can be read, and by number the errors of all patches that cannot."""
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
    """`path` relative to the lock file's folder, or absolute if it is on another drive."""
    try:
        return Path(os.path.relpath(path, lock_path.parent)).as_posix()
    except ValueError:  # another drive
        return path.resolve().as_posix()

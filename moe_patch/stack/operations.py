"""Changes to a stack. Each function takes a lock and returns the changed one."""

from __future__ import annotations

from collections.abc import Callable

from moe_patch.errors import StackError, UnclearPatch, WrongBase
from moe_patch.io.wording import did_you_mean
from moe_patch.patch.base_record import BaseRecord
from moe_patch.patch.fingerprint import differences
from moe_patch.patch.member import find_member
from moe_patch.stack.lockfile import Combine, Entry, Lock, lock_members


def add_entry(lock: Lock, entry: Entry, base: BaseRecord, position: int | None = None) -> Lock:
    """The stack with one more patch, on top or at `position`, counted from 1.

    Raises:
        StackError: the patch is in the stack already.
        WrongBase: the patch was built for another base.
    """
    for number, other in enumerate(lock.patch, start=1):
        if other.hash == entry.hash:
            raise StackError(f"{entry.path} is in the stack already, as number {number} ({other.path})")
    joined = base if lock.base is None else join_bases(lock.base, base, entry.path)
    grown = lock.model_copy(update={"base": joined, "patch": [*lock.patch, entry]})
    return grown if position is None else move_entry(grown, len(grown.patch), position)


def remove_entry(lock: Lock, number: int) -> Lock:
    """The stack without patch `number`. An empty stack belongs to no base."""
    kept = [entry for place, entry in enumerate(lock.patch, start=1) if place != number]
    return lock.model_copy(update={"patch": kept, "base": lock.base if kept else None})


def enable_entry(lock: Lock, number: int, enabled: bool) -> Lock:
    """The stack with patch `number` enabled or disabled."""
    return _replace(lock, number, lambda entry: entry.model_copy(update={"enabled": enabled}))


def move_entry(lock: Lock, number: int, position: int) -> Lock:
    """The stack with patch `number` moved to `position`; the patches between shift by one.

    Raises:
        StackError: there is no such position.
    """
    if not 1 <= position <= len(lock.patch):
        raise StackError(f"the stack has positions 1 to {len(lock.patch)}, and no position {position}")
    entries = list(lock.patch)
    entries.insert(position - 1, entries.pop(number - 1))
    return lock.model_copy(update={"patch": entries})


def set_combine(lock: Lock, combine: Combine) -> Lock:
    """The stack with another way to combine its patches."""
    return lock.model_copy(update={"combine": combine})


def find_entry(lock: Lock, name: str) -> int:
    """The number, from 1, of the patch that `name` means: its number, its path, its file name or its hash.

    The first eight digits of a hash are enough, with or without `sha256:`.

    Raises:
        StackError: no patch matches, or several do.
    """
    if name.isdecimal() and 1 <= int(name) <= len(lock.patch):
        return int(name)
    members = lock_members(lock)
    spelled = [member for member in members if member.patch.path == name] or [
        member for member in members if member.patch.path.rpartition("/")[2] in (name, f"{name}.safetensors")
    ]
    meant = [member.hash for member in spelled]
    if not meant:
        try:
            return find_member(members, name).number
        except UnclearPatch as error:
            meant = list(error.meant)
    numbers = [member.number for member in members if member.hash in meant]
    if len(numbers) == 1:
        return numbers[0]
    if numbers:
        places = " and ".join(map(str, numbers))
        raise StackError(f"{name!r} means patches {places} of the stack: give the number of one")
    known = ", ".join(f"{member.number} {member.patch.path}" for member in members)
    hint = did_you_mean(name, (member.name for member in members))
    raise StackError(f"no patch {name!r} in the stack: it holds {known or 'none'}{hint}")


def join_bases(known: BaseRecord, other: BaseRecord, name: str) -> BaseRecord:
    """Merge two records of one base; the result covers the layers of both.

    Raises:
        WrongBase: they are records of different bases; the message says what differs.
    """
    first, second = known.fingerprint(), other.fingerprint()
    if differs := differences(first, second, first.experts.keys() & second.experts.keys()):
        raise WrongBase(f"{name} was built for another base than the stack: {'; '.join(differs)}")
    return known.model_copy(update={"layers": known.layers | other.layers})


def _replace(lock: Lock, number: int, change: Callable[[Entry], Entry]) -> Lock:
    entries = list(lock.patch)
    entries[number - 1] = change(entries[number - 1])
    return lock.model_copy(update={"patch": entries})

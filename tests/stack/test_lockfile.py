"""The lock file: its text, its history, and the operations on it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_patch.errors import StackError, WrongBase
from moe_patch.patch.base_record import BaseRecord
from moe_patch.stack import Entry, Lock, change_lock, create_lock, read_lock, undo_lock
from moe_patch.stack.lockfile import lock_text, parse_lock
from moe_patch.stack.operations import (
    add_entry,
    enable_entry,
    find_entry,
    move_entry,
    remove_entry,
    set_combine,
)
from tests.patch.patches import digest


def base(*layers: int, config: int = 1, experts: int = 100) -> BaseRecord:
    return BaseRecord.model_validate(
        {
            "model_type": "qwen3_moe",
            "config": digest(config),
            "index": digest(2),
            "layers": {str(n): {"shape": [8, 6, 4], "experts": digest(experts + n)} for n in layers},
        }
    )


def stack_of(*numbers: int) -> Lock:
    lock = Lock()
    for number in numbers:
        lock = add_entry(lock, Entry(path=f"patches/{number}.safetensors", hash=digest(number)), base(1, 10))
    return lock


def order(lock: Lock) -> list[int]:
    return [int(entry.hash.removeprefix("sha256:"), 16) for entry in lock.patch]


def test_the_text_is_what_the_documentation_shows() -> None:
    lock = stack_of(7)
    assert tomllib.loads(lock_text(lock)) == {
        "format": 1,
        "revision": 0,
        "combine": "solve",
        "base": base(1, 10).model_dump(),
        "patch": [{"path": "patches/7.safetensors", "hash": digest(7), "enabled": True}],
    }
    assert lock_text(lock).index("[base.layers.1]") < lock_text(lock).index("[base.layers.10]")


@given(path=st.text(min_size=1).filter(lambda text: "\x00" not in text), enabled=st.booleans())
def test_any_path_comes_back(path: str, enabled: bool) -> None:
    if not path.isprintable() and any(0xD800 <= ord(letter) <= 0xDFFF for letter in path):
        return  # file systems give no such name, and UTF-8 files cannot hold it
    lock = add_entry(Lock(revision=3), Entry(path=path, hash=digest(1), enabled=enabled), base(0))
    assert parse_lock(lock_text(lock)) == lock


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("format = ", "is not TOML"),
        ("format = 2", "format"),
        ("format = 1\nformat = 1", "is not TOML"),
        ("patches = []", "patches: no such field"),
        ('combine = "mix"', "combine"),
        ("revision = -1", "revision"),
        ('[[patch]]\npath = "a"\nhash = "sha256:12"', "patch.0.hash"),
        (f'[[patch]]\npath = "a"\nhash = "{digest(1)}"', "base: expected with patches"),
        (lock_text(stack_of(1)) + f'[[patch]]\npath = "b"\nhash = "{digest(1)}"', "every hash once"),
    ],
)
def test_what_is_no_stack_is_refused_by_field(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "moe-patch.stack"
    path.write_text(text)
    with pytest.raises(StackError, match=reason) as caught:
        read_lock(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_operations_keep_the_order() -> None:
    lock = stack_of(1, 2, 3, 4)
    assert order(move_entry(lock, 1, 3)) == [2, 3, 1, 4]
    assert order(move_entry(lock, 4, 1)) == [4, 1, 2, 3]
    assert order(remove_entry(lock, 2)) == [1, 3, 4]
    assert [entry.enabled for entry in enable_entry(lock, 3, enabled=False).patch] == [
        True,
        True,
        False,
        True,
    ]
    grown = add_entry(lock, Entry(path="x", hash=digest(9)), base(2), position=2)
    assert order(grown) == [1, 9, 2, 3, 4]
    assert grown.base is not None
    assert sorted(grown.base.layers) == ["1", "10", "2"]
    with pytest.raises(StackError, match="positions 1 to 4"):
        move_entry(lock, 1, 5)
    with pytest.raises(StackError, match="in the stack already, as number 3"):
        add_entry(lock, Entry(path="again", hash=digest(3)), base(1))


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        (base(1, config=5), "its config differs"),
        (base(1, experts=500), "the expert weights of layer 1 differ"),
        (base(1).model_copy(update={"model_type": "mixtral"}), "architecture is mixtral, not qwen3_moe"),
    ],
)
def test_a_patch_of_another_base_is_refused(other: BaseRecord, differs: str) -> None:
    with pytest.raises(WrongBase, match=differs):
        add_entry(stack_of(1), Entry(path="x", hash=digest(2)), other)


def test_a_stack_that_was_emptied_takes_patches_of_any_base() -> None:
    emptied = remove_entry(stack_of(1), 1)
    assert emptied.base is None
    assert add_entry(emptied, Entry(path="x", hash=digest(2)), base(1, config=5)).base == base(1, config=5)


def test_patches_are_found_by_number_path_name_and_hash() -> None:
    lock = stack_of(1, 2)
    for name in ("2", "patches/2.safetensors", "2.safetensors", digest(2)):
        assert find_entry(lock, name) == 2
    with pytest.raises(StackError, match="it holds 1 patches/1"):
        find_entry(lock, "3")
    with pytest.raises(StackError, match="means patches 1 and 2"):
        find_entry(lock, "sha256:00000000")
    with pytest.raises(StackError, match="no patch 'sha256:0000000'"):  # too few digits
        find_entry(lock, "sha256:0000000")


def test_undo_goes_back_revision_by_revision_and_forward_again(tmp_path: Path) -> None:
    path = tmp_path / "moe-patch.stack"
    create_lock(path)
    entries = [Entry(path=f"{n}", hash=digest(n)) for n in (1, 2)]
    first = change_lock(path, lambda lock: add_entry(lock, entries[0], base(1)))
    change_lock(path, lambda lock: add_entry(lock, entries[1], base(1)))
    assert undo_lock(path) == read_lock(path) == first
    changed = change_lock(path, lambda lock: set_combine(lock, "add"))
    assert (changed.revision, changed.combine, order(changed)) == (2, "add", [1])
    assert undo_lock(path) == first
    assert order(undo_lock(path)) == []
    with pytest.raises(StackError, match="nothing to undo"):
        undo_lock(path)


def test_a_change_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "moe-patch.stack"
    create_lock(path)
    before = path.read_bytes()
    with pytest.raises(StackError):
        change_lock(path, lambda lock: move_entry(lock, 1, 2))
    assert path.read_bytes() == before
    with pytest.raises(StackError, match="exists already"):
        create_lock(path)
    with pytest.raises(StackError, match="make one with `moe-patch stack init`"):
        read_lock(tmp_path / "other.stack")

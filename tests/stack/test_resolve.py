"""From a lock file to what runs: one delta for all deltas, and the bypasses beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from moe_patch.errors import StackError
from moe_patch.patch import Patch, save
from moe_patch.patch.base_record import BaseRecord
from moe_patch.stack import Lock, create_lock, operations, resolve_stack, resolve_with_bypasses
from moe_patch.stack.members import entry_for
from tests.patch.patches import bypass_patch, facts
from tests.stack.patches import World


def locked(folder: Path, *patches: Patch) -> Path:
    """A stack of these patches, the first one lowest."""
    path, lock = folder / "moe-patch.stack", Lock()
    for number, patch in enumerate(patches):
        file = folder / f"{number}.safetensors"
        save(patch, file)
        lock = operations.add_entry(lock, entry_for(file, patch, path), BaseRecord.of(patch.base))
    create_lock(path, lock)
    return path


def about(patch: Patch, name: str) -> Patch:
    """The patch about subjects that no other one is about."""
    own = [replace(fact, id=f"{name}-{fact.id}", subject=f"{name} {fact.id}") for fact in facts(3)]
    return replace(patch, facts=tuple(own))


def test_deltas_become_one_and_a_bypass_stays_beside_them(tmp_path: Path) -> None:
    world, bypass = World(4), about(bypass_patch(), "bypass")
    deltas = [world.build([0, 1]), world.build([2, 3])]
    parts = resolve_with_bypasses(locked(tmp_path, deltas[0], bypass, deltas[1]))
    assert parts.delta is not None
    assert parts.delta.facts == tuple(world.facts)
    assert [patch.hash for patch in parts.bypasses] == [bypass.hash]
    assert parts.hashes == (deltas[0].hash, bypass.hash, deltas[1].hash)


def test_bypasses_alone_need_no_delta(tmp_path: Path) -> None:
    parts = resolve_with_bypasses(locked(tmp_path, bypass_patch()))
    assert (parts.delta, len(parts.bypasses)) == (None, 1)


def test_two_bypasses_beside_one_layer_are_refused_with_the_reason(tmp_path: Path) -> None:
    path = locked(tmp_path, about(bypass_patch(), "one"), about(bypass_patch(), "two"))
    with pytest.raises(StackError, match=r"both put a bypass beside layer 3: each routes every token"):
        resolve_with_bypasses(path)


def test_one_patch_cannot_stand_for_a_bypass(tmp_path: Path) -> None:
    path = locked(tmp_path, World(2).build([0, 1]), bypass_patch())
    with pytest.raises(StackError, match="a delta cannot express"):
        resolve_stack(path)

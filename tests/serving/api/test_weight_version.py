"""One name for each sum of patches."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_patch.patch import save
from moe_patch.patch.base_record import BaseRecord
from moe_patch.stack import Entry, Lock, create_lock
from moe_patch.stack.members import entry_for
from moe_patch_serving.api.weight_version import BARE, Loaded, loaded_from, weight_version
from tests.patch.patches import delta_patch, digest

A, B, C = digest(1), digest(2), digest(3)


def test_the_bare_base_has_a_name_of_its_own() -> None:
    assert weight_version(Loaded(), ()) == weight_version(Loaded((), "solve"), ()) == BARE


@given(st.lists(st.sampled_from([A, B, C]), unique=True), st.integers(0, 3))
def test_it_does_not_matter_how_added_patches_got_there(hashes: list[str], cut: int) -> None:
    assert weight_version(Loaded(tuple(hashes[:cut])), hashes[cut:]) == weight_version(Loaded(), hashes)


def test_order_and_joint_solutions_do_matter() -> None:
    versions = [
        weight_version(Loaded(), (A, B)),
        weight_version(Loaded(), (B, A)),
        weight_version(Loaded((A, B), "solve"), ()),
        weight_version(Loaded((A,)), ()),
    ]
    assert len(set(versions)) == 4
    assert weight_version(Loaded((A,), "solve"), (B,)) == versions[0]  # one patch is its own solution


@pytest.mark.parametrize("combine", ["add", "solve"])
def test_a_stack_on_disk_says_what_will_be_loaded(tmp_path: Path, combine: str) -> None:
    first, second = delta_patch(seed=0), delta_patch(seed=1)
    entries: list[Entry] = []
    for name, patch in (("first", first), ("second", second)):
        save(patch, tmp_path / f"{name}.safetensors")
        entries.append(entry_for(tmp_path / f"{name}.safetensors", patch, tmp_path / "stack"))
    entries[1] = entries[1].model_copy(update={"enabled": False})
    create_lock(tmp_path / "stack", Lock(combine=combine, base=BaseRecord.of(first.base), patch=entries))
    assert loaded_from(tmp_path / "stack") == Loaded((first.hash,), combine)

"""The patches that a server loads at start, and what is left when one of them is taken off."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_patch.patch import Patch, load
from moe_patch.stack import load_enabled, read_lock
from moe_patch.stack.combine import combine_deltas
from moe_patch.stack.lockfile import lock_members
from moe_patch_serving import NAME
from moe_patch_serving.api.harmony import loaded_again
from moe_patch_serving.api.members import ServedMember, served_member
from moe_patch_serving.api.standing import Ground
from moe_patch_serving.errors import Conflict
from moe_patch_serving.store import PatchStore

if TYPE_CHECKING:
    from vllm.config import VllmConfig


def loaded_ground(config: VllmConfig, store: PatchStore) -> Ground:
    """What the load format has added, by its settings. The patches are copied into the store.

    Raises:
        MoePatchError: a patch or the stack cannot be read.
    """
    extra: Any = config.load_config.model_loader_extra_config
    if config.load_config.load_format != NAME or not isinstance(extra, dict):
        return Ground()
    if "patch" in extra:
        path = Path(extra["patch"])
        return Ground((_member(load(path), path, path.name, 1, store),))
    stack = Path(extra["stack"])
    lock = read_lock(stack)
    paths = {listed.number: stack.parent / listed.patch.path for listed in lock_members(lock)}
    members = tuple(
        _member(one.patch, paths[one.number], one.name, one.number, store)
        for one in load_enabled(lock, stack)
    )
    return Ground(members, lock.combine)


def ground_without(ground: Ground, gone: ServedMember, store: PatchStore) -> Ground:
    """What is left when one patch is taken off. The delta that stands for the others is put into the store.

    The others are combined as a stack of them would be: a fact that the patch had answered last is again said
    by the patch below, and patches that were solved jointly are solved again.

    Raises:
        Conflict: the patch is a bypass.
        MoePatchError: the others cannot be combined.
    """
    if gone.patch.kind != "delta":
        raise Conflict(
            f"{gone.name} is a bypass that was loaded with the weights: start the server without it to take "
            "it off"
        )
    left = tuple(member for member in ground.members if member is not gone)
    combined = combine_deltas(loaded_again(left), ground.combine)
    if combined is None:
        return Ground(left, ground.combine)
    stored = store.put(combined.patch)
    return Ground(left, ground.combine, str(stored), combined.patch.hash)


def _member(patch: Patch, path: Path, name: str, number: int, store: PatchStore) -> ServedMember:
    found = served_member(patch, path, str(path), store.put(patch))
    return ServedMember(name.removesuffix(".safetensors"), found.patch, number)

"""Adds patches to a served model and removes them, in one worker's memory.

After any operation, every weight is the original plus the deltas of the present patches, summed in their
order in fp32 and rounded once. Without patches it is the original, bit for bit. Adding and subtracting deltas
would not give that.

What lies beneath live patches, the ground, are the experts as they were loaded, with the patches of the load
format. Some of those can be taken off as well: the experts that they touch are then read from the checkpoint
again and get the sum of the others, by the load format's own arithmetic.

Memory: the original of every touched down projection is kept on the host, once for any number of patches, and
freed with the last of them. It never exceeds the down projections of this worker.
`MOE_PATCH_MAX_KEPT_BYTES` sets a lower limit: an add that would exceed it is refused.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from moe_patch.apply.weights.size import refuse_oversized
from moe_patch.checkpoint import Checkpoint
from moe_patch.errors import ConfigError, HashMismatch, ModelError, PatchError, StackError
from moe_patch.patch import LayerDelta, Patch, load
from moe_patch.versions import check_vllm
from moe_patch_serving.load.loader import LoadedPatches, loaded_patches
from moe_patch_serving.served_base import served_base
from moe_patch_serving.source import served_checkpoint
from moe_patch_serving.worker.experts import ServedExperts, ServedLayer
from moe_patch_serving.worker.ground import loaded_weight

if TYPE_CHECKING:
    from vllm.config import VllmConfig

LIMIT = "MOE_PATCH_MAX_KEPT_BYTES"

_Place = tuple[int, int]  # layer, expert

_live: weakref.WeakKeyDictionary[nn.Module, LivePatches] = weakref.WeakKeyDictionary()


class LivePatches:
    """The patches on one worker's share of a served model, the lowest first."""

    def __init__(
        self,
        experts: ServedExperts,
        checkpoint: Checkpoint,
        *,
        loaded: LoadedPatches | None = None,
        max_kept_bytes: int | None = None,
    ) -> None:
        """Start without live patches.

        Args:
            loaded: the patches that were added at loading.
            max_kept_bytes: limit for the size of the kept originals; None for no limit.
        """
        self._experts, self._checkpoint = experts, checkpoint
        self._whole, self._max_kept_bytes = loaded or LoadedPatches(), max_kept_bytes
        self._ground = self._whole
        self._on: tuple[Patch, ...] = ()
        self._places_of: weakref.WeakKeyDictionary[Patch, frozenset[_Place]] = weakref.WeakKeyDictionary()
        self._originals: dict[_Place, Tensor] = {}
        self._base = served_base(checkpoint)

    @property
    def hashes(self) -> list[str]:
        """The hashes of the live patches, the lowest first."""
        return [on.hash for on in self._on]

    def add(self, patch: Patch, position: int | None = None, *, allow_large: bool = False) -> None:
        """Add a patch on top, or at `position`, counted from 1. After an error nothing has changed.

        Raises:
            WrongBase: the patch was built for another base than the served one.
            OversizedEdit: a change is much larger than its expert, and that is not allowed.
            PatchError: the patch is on the model already, or its kind does not change weights.
            StackError: there is no such position.
            ModelError: the layout of the experts in vLLM is unknown, or the patch does not fit.
        """
        digest = patch.hash
        if digest in self.hashes or digest in self._ground.hashes:
            since = "already" if digest in self.hashes else "since it was loaded: it cannot be put on twice"
            raise PatchError(f"patch {digest} is on this model {since}")
        if patch.kind == "prompt":
            raise PatchError(f"patch {digest} changes prompts alone: there is nothing to serve")
        if patch.kind != "delta":
            raise PatchError(
                f"a patch of kind {patch.kind!r} does not change weights, and cannot go on while vLLM runs: "
                "start it with --load-format moe_patch"
            )
        position = len(self._on) + 1 if position is None else position
        if not 1 <= position <= len(self._on) + 1:
            raise StackError(f"the stack has room at positions 1 to {len(self._on) + 1}, not at {position}")
        self._base.check(patch)
        if not allow_large:
            refuse_oversized(patch, self._checkpoint.weight)
        below, above = self._on[: position - 1], self._on[position - 1 :]
        self._become((*below, patch, *above))

    def add_file(
        self, path: Path, expected_hash: str, position: int | None = None, *, allow_large: bool = False
    ) -> None:
        """Add the patch in a file.

        Raises:
            HashMismatch: the file holds another patch.
            MoePatchError: the file cannot be read, or `add` refuses the patch.
        """
        patch = load_as(path, expected_hash)
        self.add(patch, position, allow_large=allow_large)

    def remove(self, digest: str) -> None:
        """Remove a patch from any place in the order.

        Raises:
            StackError: the patch is not a live patch of this model.
        """
        gone = self._find(digest)
        self._become(tuple(on for on in self._on if on is not gone))

    def reorder(self, hashes: Sequence[str]) -> None:
        """Put the live patches into another order, the lowest first.

        Raises:
            StackError: `hashes` does not name each live patch once.
        """
        if sorted(hashes) != sorted(self.hashes):
            raise StackError(f"to reorder, name each of the {len(self._on)} patches that are on once")
        self._become(tuple(self._find(digest) for digest in hashes))

    def set_ground(self, hashes: Sequence[str], delta: Patch | None = None) -> None:
        """Leave only some of the patches that were added at loading. After an error nothing has changed.

        Args:
            hashes: of the patches to leave, the lowest first.
            delta: what stands for their deltas together; None if they are all that were loaded, or if none
                of them has a delta.

        Raises:
            StackError: one of the patches was not loaded.
            WrongBase: `delta` was built for another base.
            ModelError: a touched expert is not what the checkpoint and the loaded patches give, its layout is
                unknown, its file cannot be read, or too much would have to be kept.
        """
        if unknown := [digest for digest in hashes if digest not in self._whole.hashes]:
            raise StackError(f"the patch {unknown[0]} was not loaded with this model")
        if delta is not None:
            self._base.check(delta)
        whole = tuple(hashes) == self._whole.hashes
        wanted = self._whole if whole else LoadedPatches(tuple(hashes), delta)
        places = sorted({place for one in (self._whole.delta, wanted.delta) for place in self._touched(one)})
        self._bound(sum(self._stored(place).nbytes for place in places))
        stored = {place: self._stored(place).to("cpu", copy=True) for place in places}
        originals = dict(self._originals)
        try:
            for place in places:
                self._lay(place, wanted.delta, originals.get(place, stored[place]))
        except BaseException:
            self._originals = originals
            for place in places:
                self._stored(place).copy_(stored[place])
            raise
        self._ground = wanted

    def _lay(self, place: _Place, delta: Patch | None, present: Tensor) -> None:
        """Put another ground beneath the live patches of one expert; `present` is the one until now."""
        layer, expert = self._layer(place), place[1]
        plain = self._checkpoint.weight(*place)  # (d_m, d_k)
        known, fresh = (
            layer.replaced(present, expert, loaded_weight(plain, expert, layer, one)).cpu()
            for one in (self._ground.delta, delta)
        )
        if not torch.equal(known, present):
            raise ModelError(
                f"layer {place[0]}, expert {expert}: what is in memory is not the checkpoint's weight with "
                "the patches that were loaded: start the server without the patch instead"
            )
        if place in self._originals:
            self._originals[place] = fresh
            self._write(place, self._on)
        else:
            layer.stored(expert).copy_(fresh)

    def state(self) -> dict[str, Any]:
        """The state as JSON values; `PatchWorker` describes the entries."""
        return {
            "patches": self.hashes,
            "loaded": list(self._ground.hashes),
            "bytes_kept": sum(kept.nbytes for kept in self._originals.values()),
            "layers": sorted({layer for layer, _ in self._originals}),
            "experts": len(self._originals),
            "weights": self._digest(),
            "base": self._base.state(),
        }

    def _find(self, digest: str) -> Patch:
        for on in self._on:
            if on.hash == digest:
                return on
        if digest in self._ground.hashes:
            raise StackError(f"the patch {digest} was loaded with the weights: `set_ground` takes it off")
        raise StackError(f"the patch {digest} is not on this model")

    def _places(self, patch: Patch) -> frozenset[_Place]:
        """The experts that the patch changes and this worker holds."""
        if patch not in self._places_of:
            self._places_of[patch] = self._find_places(patch)
        return self._places_of[patch]

    def _find_places(self, patch: Patch) -> frozenset[_Place]:
        places = set()
        for layer, delta in patch.layers.items():
            served = self._served(layer)
            if served is not None:
                places |= {(layer, expert) for expert in delta.experts() if served.slot(expert) is not None}
        return frozenset(places)

    def _touched(self, patch: Patch | None) -> frozenset[_Place]:
        return frozenset() if patch is None else self._places(patch)

    def _served(self, layer: int) -> ServedLayer | None:
        return self._experts.layer(self._checkpoint.base.layer(layer))

    def _become(self, wanted: tuple[Patch, ...]) -> None:
        """Make `wanted` the live patches. After an error the present ones stay, with their weights."""
        before, places = self._on, sorted(self._changed(wanted))
        try:
            self._keep(places)
            for place in places:
                self._write(place, wanted)
        except BaseException:
            for place in places:
                if place in self._originals:
                    self._write(place, before)
            self._forget(before)
            raise
        self._on = wanted
        self._forget(wanted)

    def _changed(self, wanted: Iterable[Patch]) -> set[_Place]:
        """The experts whose patches, or their order, differ between now and `wanted`."""
        places = {place for on in (*self._on, *wanted) for place in self._places(on)}
        return {place for place in places if self._acting(self._on, place) != self._acting(wanted, place)}

    def _keep(self, places: Iterable[_Place]) -> None:
        fresh = [place for place in places if place not in self._originals]
        self._bound(sum(self._stored(place).nbytes for place in fresh))
        for place in fresh:
            self._originals[place] = self._stored(place).to("cpu", copy=True)

    def _bound(self, more: int) -> None:
        """Check that `more` bytes can be kept beside those that are."""
        needed = more + sum(kept.nbytes for kept in self._originals.values())
        if self._max_kept_bytes is not None and needed > self._max_kept_bytes:
            raise ModelError(
                f"the originals of the touched experts would take {needed:,} bytes, but {LIMIT} "
                f"allows {self._max_kept_bytes:,}"
            )

    def _forget(self, on: Iterable[Patch]) -> None:
        """Free the originals of experts that no patch touches any more."""
        touched = {place for one in on for place in self._places(one)}
        self._originals = {place: kept for place, kept in self._originals.items() if place in touched}

    def _write(self, place: _Place, on: Iterable[Patch]) -> None:
        original, acting = self._originals[place], self._acting(on, place)
        layer, expert = self._layer(place), place[1]
        edited = layer.edited(original, expert, _deltas(acting, place)) if acting else original
        layer.stored(expert).copy_(edited)

    def _acting(self, on: Iterable[Patch], place: _Place) -> list[Patch]:
        """The patches that change an expert, in their order."""
        return [patch for patch in on if place in self._places(patch)]

    def _stored(self, place: _Place) -> Tensor:
        return self._layer(place).stored(place[1])

    def _layer(self, place: _Place) -> ServedLayer:
        served = self._served(place[0])
        assert served is not None  # `_find_places` has left the others out
        return served

    def _digest(self) -> str:
        """SHA-256 of the touched experts' present weights, by layer and expert.

        What was loaded touches experts as well, but counts only once some of it was taken off.
        """
        digest = hashlib.sha256()
        ground = self._touched(self._whole.delta) if self._ground is not self._whole else ()
        for place in sorted({*self._originals, *ground}):
            digest.update(self._stored(place).cpu().contiguous().view(torch.uint8).numpy().data)
        return f"sha256:{digest.hexdigest()}"


def load_as(path: Path, expected_hash: str | None) -> Patch:
    """The patch in a file.

    Raises:
        HashMismatch: the file holds another patch than the expected one.
        MoePatchError: the file cannot be read.
    """
    patch = load(path)
    if patch.hash != expected_hash:
        raise HashMismatch(f"{path}: is the patch {patch.hash}, and not {expected_hash}")
    return patch


def live_patches(model: nn.Module, vllm_config: VllmConfig) -> LivePatches:
    """The live patches of this worker's model. All callers get the same object.

    Raises:
        ConfigError: this vLLM is not supported.
        ModelError: the model cannot be edited.
    """
    if model not in _live:
        check_vllm()
        _live[model] = LivePatches(
            ServedExperts(model),
            served_checkpoint(vllm_config.model_config, vllm_config.load_config),
            loaded=loaded_patches(model),
            max_kept_bytes=_limit(),
        )
    return _live[model]


def _deltas(acting: Iterable[Patch], place: _Place) -> list[LayerDelta]:
    return [patch.layers[place[0]] for patch in acting]


def _limit() -> int | None:
    value = os.environ.get(LIMIT)
    if value is not None and not value.isdecimal():
        raise ConfigError(f"{LIMIT}: expected a number of bytes, found {value!r}")
    return None if value is None else int(value)

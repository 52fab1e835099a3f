"""Patches merged into a checkpoint on the disk, in little memory and with little writing.

A weight keeps its name, dtype and shape when it is patched, so a shard keeps its layout: it is copied with
other bytes for the touched experts, one expert at a time. Shards without a touched expert are linked. The
result is the base with the patches merged in memory and saved, to the bit.
"""

from __future__ import annotations

import logging
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pydantic import JsonValue
from torch import Tensor

from moe_patch.apply.dense import dense_delta, summed
from moe_patch.apply.survival import STATED_LOSS, Survival
from moe_patch.checkpoint.contents import companions, kept_originals, read, sha256, stamps, write_originals
from moe_patch.checkpoint.folder import Checkpoint
from moe_patch.checkpoint.link import How, Link, choose, write_changed
from moe_patch.checkpoint.names import Slot
from moe_patch.checkpoint.record import RECORD, FileRecord, Record, patch_record
from moe_patch.checkpoint.staging import LAST, Staging, refuse_existing
from moe_patch.errors import OutputError, PatchError
from moe_patch.patch import LayerDelta, Patch, check_base
from moe_patch.patch.schema import BaseRecord

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Change:
    """One expert that patches change, and where it is stored."""

    layer: int
    expert: int
    slot: Slot


@dataclass(frozen=True, slots=True)
class MergePlan:
    """What a merge is going to do; nothing has been written yet."""

    checkpoint: Checkpoint
    patches: tuple[Patch, ...]
    out: Path
    keep_originals: bool
    changes: dict[str, list[Change]] = field(repr=False)  # by the file that holds them, in the file's order
    linked: How  # how untouched weights get into the folder
    cloned: How  # how a shard gets there before it is changed

    @property
    def untouched(self) -> list[str]:
        """Files of weights that stay as they are."""
        return [name for name in self.checkpoint.weights if name not in self.changes]

    @property
    def disk_bytes(self) -> int:
        """What the merge takes on the disk at its peak, which is also what it leaves there."""
        folder, touched = self.checkpoint.folder, self._slots()
        changed = sum(slot.end - slot.begin for slot in touched)
        cloned = changed if self.cloned == "reflink" else _bytes(folder, self.changes)
        copied = _bytes(folder, self.untouched) if self.linked == "copy" else 0
        carried = _bytes(folder, [*companions(folder), *kept_originals(folder)])
        return cloned + copied + carried + (changed if self.keep_originals else 0)

    def run(self, progress: Progress | None = None) -> Record:
        """Write the folder. It appears whole or not at all, and an interrupted run is taken up again.

        The patches are summed with an expert's weight in fp32 and rounded once to the dtype that is stored.
        Logs a warning for each patch that loses more than `STATED_LOSS` of a fact's edit to that.

        Raises:
            WrongBase: a patch was built for another base.
            OutputError: `out` exists, there is too little space, or the system refuses to write.
        """
        self._check_space()
        staging = Staging(self.out, self._identity())
        with staging.opened(), ThreadPoolExecutor(max_workers=2) as pool:
            base = pool.submit(self._check_base)
            sums = {name: pool.submit(sha256, self.checkpoint.folder / name) for name in self.changes}
            survival = {patch.hash: Survival(patch) for patch in self.patches}
            for number, name in enumerate(self.checkpoint.weights):
                if name in self.changes:
                    self._rewrite(staging, name, base, list(survival.values()))
                else:
                    staging.bring(self.checkpoint.folder / name, name, self.linked)
                if progress is not None:
                    progress("files", number + 1, len(self.checkpoint.weights))
            record = self._record(base.result(), sums, survival)
            self._finish(staging, record)
        self._warn_of_losses(record)
        return record

    def _check_base(self) -> BaseRecord:
        """The base as the checkpoint's own experts say, once every patch has been held against it."""
        layers = {layer for patch in self.patches for layer in patch.layers}
        found = self.checkpoint.fingerprint(layers)
        for patch in self.patches:
            check_base(patch, found)
        shapes = {str(layer): list(found.shapes[layer]) for layer in sorted(layers)}
        return BaseRecord(
            model_type=found.model_type,
            config=found.config,
            index=found.index,
            layers={
                layer: {"shape": shape, "experts": found.experts[int(layer)]}  # type: ignore[misc]
                for layer, shape in shapes.items()
            },
        )

    def _rewrite(
        self, staging: Staging, name: str, base: Future[BaseRecord], survival: Sequence[Survival]
    ) -> None:
        """Write a shard with its touched experts changed, or measure one that an earlier run has written."""
        source, changes = self.checkpoint.folder / name, self.changes[name]
        if staging.done(name):
            for change in changes:
                slot = change.slot
                weight = slot.decode(read(source, slot.begin, slot.end))
                raw = read(staging.folder / name, slot.begin, slot.end)
                self._measure(change, self._summed(change, weight), raw, survival)
            return
        pieces = (
            (change.slot.begin, change.slot.end, partial(self._edited, change, survival=survival))
            for change in changes
        )
        with staging.making(name) as target:
            write_changed(source, target, pieces, self.cloned)
            base.result()  # meanwhile the base has been checked

    def _edited(self, change: Change, raw: bytes, *, survival: Sequence[Survival]) -> bytes:
        """What is stored of an expert after the merge, given what was stored before."""
        exact = self._summed(change, change.slot.decode(raw))
        edited = change.slot.encode(exact)
        self._measure(change, exact, edited, survival)
        return edited

    def _summed(self, change: Change, weight: Tensor) -> Tensor:
        """The expert's weight with all patches, in their order: (d_m, d_k), not rounded yet."""
        return summed(weight, (dense_delta(delta, change.expert, weight) for delta in self._deltas(change)))

    def _measure(self, change: Change, exact: Tensor, edited: bytes, survival: Sequence[Survival]) -> None:
        """Count what is not in the bytes of an edited expert that was to be there."""
        missing = exact - change.slot.decode(edited).to(exact.dtype)  # (d_m, d_k)
        for one in survival:
            one.add(change.layer, change.expert, self._deltas(change), missing)

    def _deltas(self, change: Change) -> list[LayerDelta]:
        """The deltas that touch an expert, in the patches' order."""
        at = (patch.layers[change.layer] for patch in self.patches if change.layer in patch.layers)
        return [delta for delta in at if change.expert in delta.expert]

    def _record(
        self,
        base: BaseRecord,
        sums: dict[str, Future[str]],
        survival: dict[str, Survival],
    ) -> Record:
        folder = self.checkpoint.folder
        before = folder / RECORD
        identity = self.patches[-1].hash.removeprefix("sha256:")[:16]
        return Record(
            base=base,
            base_name=self.checkpoint.name,
            patches=[patch_record(patch, survival[patch.hash]) for patch in self.patches],
            rewritten={
                name: FileRecord(bytes=(folder / name).stat().st_size, sha256=digest.result())
                for name, digest in sums.items()
            },
            originals=f"moe_patch/originals-{identity}.safetensors" if self.keep_originals else None,
            before=before.read_text(encoding="utf-8") if before.exists() else None,
        )

    def _finish(self, staging: Staging, record: Record) -> None:
        """Everything but the weights, the config last."""
        folder = self.checkpoint.folder
        for name in kept_originals(folder):
            staging.bring(folder / name, name, self.linked)
        if record.originals is not None and not staging.done(record.originals):
            with staging.making(record.originals) as path:
                write_originals(path, folder, self._slots())
        for name in companions(folder):
            if name != LAST:
                staging.bring(folder / name, name, "copy")
        with staging.making(RECORD) as path:
            path.write_text(record.text(), encoding="utf-8", newline="\n")
        staging.bring(folder / LAST, LAST, "copy")

    def _slots(self) -> list[Slot]:
        return [change.slot for changes in self.changes.values() for change in changes]

    def _identity(self) -> JsonValue:
        folder = self.checkpoint.folder
        files = [*self.checkpoint.weights, *companions(folder), *kept_originals(folder)]
        return {
            "merge": [patch.hash for patch in self.patches],
            "into": [str(folder.resolve()), *stamps(folder, files)],
            "how": [self.linked, self.cloned, self.keep_originals],
        }

    def _check_space(self) -> None:
        free = shutil.disk_usage(self.out.absolute().parent).free
        if self.disk_bytes > free:
            raise OutputError(f"{self.out} takes {self.disk_bytes:,} bytes, and {free:,} are free there")

    def _warn_of_losses(self, record: Record) -> None:
        for patch in record.patches:
            if patch.lost.get("worst", 0.0) > STATED_LOSS:
                logger.warning(
                    "patch %s: rounding to the checkpoint's dtype took %.0f%% of the worst fact's edit, and "
                    "%.0f%% of the median one's",
                    patch.hash,
                    100 * patch.lost["worst"],
                    100 * patch.lost["median"],
                )


def plan_merge(
    checkpoint: Checkpoint,
    patches: Sequence[Patch],
    out: str | Path,
    *,
    link: Link = "auto",
    keep_originals: bool = False,
) -> MergePlan:
    """What merging `patches`, in this order, into a copy of `checkpoint` at `out` would do.

    `keep_originals` keeps the touched experts as they were beside the weights, so that the patches can be
    taken out again without the base.

    Raises PatchError where there are no patches, one comes twice or is of a kind that does not change
    weights, ModelError for layers that the base does not have, OutputError where `out` exists.
    """
    hashes = [patch.hash for patch in patches]
    if not patches:
        raise PatchError("there are no patches to merge")
    if len(set(hashes)) < len(hashes):
        raise PatchError("a patch is merged once, but one of these comes twice")
    for patch in patches:
        if patch.kind != "delta":
            raise PatchError(f"a patch of kind {patch.kind!r} does not change weights: it cannot be merged")
    out = Path(out)
    refuse_existing(out)
    first = checkpoint.folder / checkpoint.weights[0]
    linked, cloned = (choose(first, out.absolute().parent, how) for how in (link, "copy"))
    changes: dict[str, list[Change]] = defaultdict(list)
    for change in sorted(_changes(checkpoint, patches), key=lambda change: change.slot.begin):
        changes[change.slot.file].append(change)
    return MergePlan(checkpoint, tuple(patches), out, keep_originals, dict(changes), linked, cloned)


def _changes(checkpoint: Checkpoint, patches: Sequence[Patch]) -> Iterator[Change]:
    touched: dict[int, set[int]] = defaultdict(set)
    for patch in patches:
        for layer, delta in patch.layers.items():
            shape = checkpoint.base.layer(layer).shape
            if (delta.left.shape[1], delta.right.shape[1]) != shape[1:]:
                raise PatchError(f"layer {layer}: the patch is not of the sizes (d_m, d_k) = {shape[1:]}")
            touched[layer] |= set(delta.experts())
    for layer, experts in touched.items():
        for expert in experts:
            yield Change(layer, expert, checkpoint.slots[layer][expert])


def _bytes(folder: Path, names: Sequence[str] | dict[str, list[Change]]) -> int:
    return sum((folder / name).stat().st_size for name in names)

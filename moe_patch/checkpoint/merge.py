"""Merging patches into a checkpoint on disk, with little memory and little writing.

A patched weight keeps its name, dtype and shape, so a shard keeps its layout: it is copied with new bytes for
the touched experts, one expert at a time. Shards without a touched expert are linked. The result is equal, to
the bit, to merging the patches in memory and saving the model.
"""

from __future__ import annotations

import logging
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from pydantic import JsonValue
from torch import Tensor

from moe_patch.apply.weights.rounding import Rounding
from moe_patch.apply.weights.survival import STATED_LOSS
from moe_patch.base.origin import known_leaves
from moe_patch.checkpoint.companions import companion_files, file_stamps
from moe_patch.checkpoint.edit import CheckpointEditor, ExpertChange, one_thread_each
from moe_patch.checkpoint.folder import Checkpoint
from moe_patch.checkpoint.link import How, Link, choose_link
from moe_patch.checkpoint.names import AnySlot
from moe_patch.checkpoint.originals import kept_originals, write_originals
from moe_patch.checkpoint.quantised import QuantisedSlot
from moe_patch.checkpoint.record import RECORD, FileRecord, Record, patch_record
from moe_patch.checkpoint.rewrite import write_changed
from moe_patch.checkpoint.staging import LAST, Staging
from moe_patch.errors import ConfigError, OutputError, PatchError
from moe_patch.io.files import refuse_existing
from moe_patch.io.known import known_sha256
from moe_patch.io.model_place import ModelPlace
from moe_patch.patch import Patch, check_base, check_shapes
from moe_patch.patch.base_record import BaseRecord

QUANTISED_LOSS = 0.1
"""A merge into quantised experts is refused if it loses more than this share of the median fact's edit."""

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class _Base:
    """The base that a merge has checked: what its record says, and the hashes (n, 32) of its pieces."""

    record: BaseRecord
    pieces: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class MergePlan:
    """What a merge will do; nothing has been written yet."""

    checkpoint: Checkpoint
    patches: tuple[Patch, ...]
    out: Path
    keep_originals: bool
    rounding: Rounding
    recheck: bool
    allow_loss: bool
    allow_large: bool
    changes: dict[str, list[ExpertChange]] = field(
        repr=False
    )  # by the file that holds them, in the file's order
    linked: How  # how untouched weights get into the folder
    cloned: How  # how a shard gets there before it is changed

    @property
    def untouched(self) -> list[str]:
        """Weight files that do not change."""
        return [name for name in self.checkpoint.weights if name not in self.changes]

    @property
    def disk_bytes(self) -> int:
        """Disk space that the merge needs; its result takes the same."""
        folder, touched = self.checkpoint.folder, self._slots()
        changed = sum(slot.end - slot.begin for slot in touched)
        cloned = changed if self.cloned == "reflink" else _bytes(folder, self.changes)
        copied = _bytes(folder, self.untouched) if self.linked == "copy" else 0
        carried = _bytes(folder, [*companion_files(folder), *kept_originals(folder)])
        return cloned + copied + carried + (changed if self.keep_originals else 0)

    def run(self, progress: Progress | None = None) -> Record:
        """Write the folder. It appears whole or not at all; the same merge continues an interrupted one.

        The patches are added to an expert's weight in fp32, and the sum is rounded once to the stored dtype.
        The base and its files are hashed, unless an earlier merge has hashed the same files. A warning is
        logged for each patch of which rounding loses more than `STATED_LOSS` of a fact's edit.

        Raises:
            WrongBase: a patch was built for another base.
            NotFinite: a weight would overflow its dtype.
            OversizedEdit: a change is much larger than its expert, and that is not allowed.
            PatchError: the experts are quantised, and more than `QUANTISED_LOSS` of the median fact's edit
                would be lost although that is not allowed.
            OutputError: `out` exists, there is too little space, or the system refuses to write.
        """
        self._check_space()
        staging = Staging(self.out, self._identity())
        with staging.opened(), one_thread_each(), ThreadPoolExecutor(max_workers=2) as pool:
            base = pool.submit(self._check_base, progress)
            sums = {name: pool.submit(self._sum, name) for name in self.changes}
            editor = CheckpointEditor(
                self.checkpoint.folder, self.patches, self.rounding, allow_large=self.allow_large
            )
            for number, name in enumerate(self.checkpoint.weights):
                if name in self.changes:
                    self._rewrite(staging, name, base, editor)
                else:
                    staging.bring(self.checkpoint.folder / name, name, self.linked)
                if progress is not None:
                    progress("files", number + 1, len(self.checkpoint.weights))
            merged = self._merged_pieces(base.result().pieces, staging.folder)
            root = self.checkpoint.root(merged)
            record = self._record(base.result().record, root, sums, editor)
            self._refuse_losses(record)
            self._finish(staging, record)
        shared = {self.out / name for name in self.untouched if self.linked == "hard"}
        known = known_leaves(self.out)
        known.store(merged, own=set(known.files) - shared)
        self._warn_of_losses(record)
        return record

    def _sum(self, name: str) -> str:
        """The SHA-256 of a file of the base."""
        return known_sha256(self.checkpoint.folder / name, fresh=self.recheck)

    def _check_base(self, progress: Progress | None) -> _Base:
        """The base by the hashes of the checkpoint's tensors, after every patch is compared with it."""
        layers = {layer for patch in self.patches for layer in patch.layers}
        pieces = self.checkpoint.pieces(fresh=self.recheck, progress=progress)
        found = self.checkpoint.identity(layers, pieces)
        for patch in self.patches:
            same_format = patch.base.format == found.format
            check_base(patch, found if same_format else self.checkpoint.fingerprint_like(patch.base))
        return _Base(BaseRecord.of(found), pieces)

    def _merged_pieces(self, pieces: Mapping[str, Tensor], written: Path) -> dict[str, Tensor]:
        """The hashes (n, 32) of the result's pieces: the base's, but for touched experts, which are read."""
        touched: dict[int, set[int]] = defaultdict(set)
        for changes in self.changes.values():
            for change in changes:
                touched[change.layer].add(change.expert)
        merged, leaves = dict(pieces), self.checkpoint.leaves
        parts = self.checkpoint.base.parts()
        for layer, experts in touched.items():
            (part,) = leaves.stored([self.checkpoint.base.down_part(parts, layer)])
            merged[part.name] = leaves.hash_again(part, experts, written, pieces[part.name])
        return merged

    def _rewrite(self, staging: Staging, name: str, base: Future[_Base], editor: CheckpointEditor) -> None:
        """Write a shard with its touched experts changed, or measure it if an earlier run has written it."""
        if staging.done(name):
            editor.measure(self.changes[name], staging.folder / name)
            return
        with staging.making(name) as target:
            write_changed(
                self.checkpoint.folder / name, target, editor.pieces(self.changes[name]), self.cloned
            )
            base.result()  # raises if the check of the base, which ran meanwhile, has failed

    def _record(
        self, base: BaseRecord, result: str, sums: dict[str, Future[str]], editor: CheckpointEditor
    ) -> Record:
        folder = self.checkpoint.folder
        before = folder / RECORD
        identity = self.patches[-1].hash.removeprefix("sha256:")[:16]
        return Record(
            base=base,
            base_name=ModelPlace(self.checkpoint.name, folder).recorded,
            patches=[patch_record(patch, editor.survival[patch.hash]) for patch in self.patches],
            rewritten={
                name: FileRecord(bytes=(folder / name).stat().st_size, sha256=digest.result())
                for name, digest in sums.items()
            },
            result=result,
            originals=f"moe_patch/originals-{identity}.safetensors" if self.keep_originals else None,
            before=before.read_text(encoding="utf-8") if before.exists() else None,
        )

    def _finish(self, staging: Staging, record: Record) -> None:
        """Write everything but the weights, the config last."""
        folder = self.checkpoint.folder
        for name in kept_originals(folder):
            staging.bring(folder / name, name, self.linked)
        if record.originals is not None and not staging.done(record.originals):
            with staging.making(record.originals) as path:
                write_originals(path, folder, self._slots())
        for name in companion_files(folder):
            if name != LAST:
                staging.bring(folder / name, name, "copy")
        with staging.making(RECORD) as path:
            path.write_text(record.text(), encoding="utf-8", newline="\n")
        staging.bring(folder / LAST, LAST, "copy")

    def _slots(self) -> list[AnySlot]:
        return [change.slot for changes in self.changes.values() for change in changes]

    def _identity(self) -> JsonValue:
        folder = self.checkpoint.folder
        files = [*self.checkpoint.weights, *companion_files(folder), *kept_originals(folder)]
        return {
            "merge": [patch.hash for patch in self.patches],
            "into": [str(folder.resolve()), *file_stamps(folder, files)],
            "how": [
                self.linked,
                self.cloned,
                self.keep_originals,
                self.rounding,
                self.allow_loss,
                self.allow_large,
            ],
        }

    def _check_space(self) -> None:
        free = shutil.disk_usage(self.out.absolute().parent).free
        if self.disk_bytes > free:
            raise OutputError(
                f"{self.out} needs {self.disk_bytes:,} bytes, but only {free:,} are free there: free some "
                "space, or choose another folder"
            )

    def _refuse_losses(self, record: Record) -> None:
        if self.allow_loss or not any(isinstance(slot, QuantisedSlot) for slot in self._slots()):
            return
        for patch in record.patches:
            if patch.lost.get("median", 0.0) > QUANTISED_LOSS:
                other = "" if self.rounding == "compensated" else "round with compensation, "
                raise PatchError(
                    f"{self.checkpoint.folder} is quantised: {100 * patch.lost['median']:.0f}% of the median "
                    f"fact's edit in patch {patch.hash} would be rounded away. Serve the patch as an adapter "
                    f"beside the weights (moe-patch export --format peft), {other}or allow the loss"
                )

    def _warn_of_losses(self, record: Record) -> None:
        for patch in record.patches:
            if patch.lost.get("worst", 0.0) > STATED_LOSS:
                logger.warning(
                    "patch %s: rounding to the checkpoint's dtype lost %.0f%% of the worst fact's edit and "
                    "%.0f%% of the median fact's",
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
    rounding: Rounding = "nearest",
    recheck: bool = False,
    allow_loss: bool = False,
    allow_large: bool = False,
) -> MergePlan:
    """Plan to merge `patches`, in this order, into a copy of `checkpoint` at `out`.

    Args:
        checkpoint: the base.
        patches: at least one.
        out: a folder that does not exist yet, or is empty.
        link: how weight files that do not change get into the folder, see `choose_link`.
        keep_originals: also keep the original bytes of touched experts, so that the patches can be taken out
            again without the base.
        rounding: as in `moe_patch.apply`.
        recheck: hash the base again, even if files that look the same have been hashed before.
        allow_loss: merge into quantised experts even if they lose much of the edits.
        allow_large: as in `moe_patch.apply`.

    Raises:
        ConfigError: `link` or `rounding` is unknown.
        PatchError: there are no patches, one is given twice, or one does not change weights.
        WrongBase: the base does not have the layers of a patch in its sizes.
        OutputError: `out` exists, or hard links are asked for but not possible.
    """
    if rounding not in get_args(Rounding):
        raise ConfigError(f"rounding {rounding!r} is unknown; choose from {', '.join(get_args(Rounding))}")
    hashes = [patch.hash for patch in patches]
    if not patches:
        raise PatchError("there are no patches to merge")
    if len(set(hashes)) < len(hashes):
        raise PatchError("the same patch is given twice: name each patch once")
    for patch in patches:
        if patch.kind != "delta":
            raise PatchError(
                f"patch {patch.hash} cannot be merged: it is of kind {patch.kind!r} and changes no weights"
            )
        check_shapes(patch, checkpoint.base.shapes)
    out = Path(out)
    refuse_existing(out)
    first = checkpoint.folder / checkpoint.weights[0]
    linked, cloned = (choose_link(first, out.absolute().parent, how) for how in (link, "copy"))
    changes: dict[str, list[ExpertChange]] = defaultdict(list)
    for change in sorted(_changes(checkpoint, patches), key=lambda change: change.slot.begin):
        changes[change.slot.file].append(change)
    return MergePlan(
        checkpoint,
        tuple(patches),
        out,
        keep_originals,
        rounding,
        recheck,
        allow_loss,
        allow_large,
        dict(changes),
        linked,
        cloned,
    )


def _changes(checkpoint: Checkpoint, patches: Sequence[Patch]) -> Iterator[ExpertChange]:
    touched: dict[int, set[int]] = defaultdict(set)
    for patch in patches:
        for layer, delta in patch.layers.items():
            touched[layer] |= set(delta.experts())
    for layer, experts in touched.items():
        for expert in experts:
            yield ExpertChange(layer, expert, checkpoint.slots[layer][expert])


def _bytes(folder: Path, names: Sequence[str] | dict[str, list[ExpertChange]]) -> int:
    return sum((folder / name).stat().st_size for name in names)

"""Taking patches out of a merged checkpoint, which gives its base again, to the byte."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import JsonValue

from moe_patch.checkpoint.companions import companion_files, file_stamps
from moe_patch.checkpoint.folder import fetched_folder, find_folder, open_checkpoint
from moe_patch.checkpoint.link import Link, choose_link, place_file
from moe_patch.checkpoint.originals import kept_originals, restore_originals
from moe_patch.checkpoint.record import RECORD, Record, read_record
from moe_patch.checkpoint.shards import weight_files
from moe_patch.checkpoint.staging import LAST, Staging
from moe_patch.errors import HashMismatch, ModelError
from moe_patch.io.files import refuse_existing
from moe_patch.io.model_place import recorded_model
from moe_patch.io.reading import file_sha256

logger = logging.getLogger(__name__)


def unmerge_checkpoint(
    merged: str | Path, out: str | Path, *, base: str | Path | None = None, link: Link = "auto"
) -> Record:
    """Write to `out` the checkpoint as it was before the last merge into `merged`.

    Rewritten files are restored from the originals that the merge kept, or taken from the base. Each must
    have the SHA-256 that the record has of it, so the files are exactly the earlier ones. The other files
    never changed. The folder appears whole or not at all.

    Args:
        merged: a merged checkpoint.
        out: a folder that does not exist yet, or is empty.
        base: the base; the one that the record names by default.
        link: how weight files get into the folder, see `choose_link`.

    Returns:
        the record of the merge.

    Raises:
        ModelError: `merged` is not a merged checkpoint, or lacks a file of its record, or neither originals
            nor base can be found.
        HashMismatch: a restored file is not the earlier one.
        OutputError: `out` exists, or the system refuses to write.
    """
    folder, out = Path(merged), Path(out)
    record = read_record(folder)
    refuse_existing(out)
    originals = None if record.originals is None else folder / record.originals
    source = _source(folder, record, base)
    weights = weight_files(folder)
    if absent := sorted(record.rewritten.keys() - set(weights)):
        raise ModelError(f"{folder} has no {absent[0]}, which its {RECORD} calls rewritten")
    others = [*companion_files(folder), *kept_originals(folder)]
    parent = out.absolute().parent
    linked, cloned = (choose_link(folder / weights[0], parent, how) for how in (link, "copy"))
    from_base = linked  # unless the base is elsewhere, perhaps on another file system
    if source != folder:
        from_base = choose_link(_present(source / weights[0]), parent, link)
    identity: JsonValue = {
        "unmerge": [str(folder.resolve()), *file_stamps(folder, [*weights, *others])],
        "from": str(source.resolve()),
        "how": [linked, from_base, cloned],
    }
    staging = Staging(out, identity)
    with staging.opened():
        for name in weights:
            if name not in record.rewritten:
                staging.bring(folder / name, name, linked)
            elif source != folder:
                _check(source / name, record.rewritten[name].sha256)
                staging.bring(source / name, name, from_base)
            elif not staging.done(name):
                with staging.making(name) as clone:
                    place_file(folder / name, clone, cloned)
                    assert originals is not None
                    restore_originals(clone, name, originals)
                    _check(clone, record.rewritten[name].sha256)
        for name in others:
            if name not in (LAST, record.originals):
                staging.bring(folder / name, name, "copy")
        if record.before is not None:
            with staging.making(RECORD) as path:
                path.write_text(record.before, encoding="utf-8", newline="\n")
        staging.bring(folder / LAST, LAST, "copy")
    _warn_of_change(folder, record)
    return record


def _source(folder: Path, record: Record, base: str | Path | None) -> Path:
    """Where rewritten files are restored from: the base, or the merged folder with its originals.

    Raises:
        ModelError: the base cannot be found, or is the merged folder itself, which has no originals.
    """
    if base is not None:
        source = find_folder(base)
    elif record.originals is not None:
        return folder
    else:
        source = fetched_folder(recorded_model(record.base_name))
    if record.originals is None and source.resolve() == folder.resolve():
        raise ModelError(
            f"{folder} is the merged folder itself: name with --model the base that it was made from"
        )
    return source


def _warn_of_change(folder: Path, record: Record) -> None:
    """Warn if the folder is known not to be what the merge wrote; nothing is hashed for it."""
    checkpoint = open_checkpoint(folder, quantised=True)
    pieces = checkpoint.known_pieces()
    if pieces is None or record.result is None:
        return
    if checkpoint.root(pieces) != record.result:
        logger.warning(
            "%s has changed since the merge, and not only in the merged experts: what was written is not "
            "the base of the record",
            folder,
        )


def _check(path: Path, wanted: str) -> None:
    found = file_sha256(_present(path))
    if found != wanted:
        raise HashMismatch(
            f"{path} has the SHA-256 {found}, but it was {wanted} before the merge: name with --model the "
            "base that the patches were merged into"
        )


def _present(path: Path) -> Path:
    if not path.is_file():
        raise ModelError(f"{path} is missing: name with --model the base that the patches were merged into")
    return path

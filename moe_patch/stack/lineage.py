"""The history of a patch: the patches that it was made from, as far as their files are found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from moe_patch.errors import PatchError
from moe_patch.io.reading import opened_file
from moe_patch.patch import HeaderLimits
from moe_patch.patch.header import read_header
from moe_patch.patch.schema import Metadata, parse_metadata


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A patch in the history of another; `metadata` is None if its file was not found."""

    hash: str
    depth: int  # 0 is the patch itself
    path: Path | None = None
    metadata: Metadata | None = None


def read_metadata(path: Path) -> Metadata:
    """The metadata of a patch file. Its tensors are not read, so its hash is not verified.

    Raises:
        PatchError: the header or the metadata is malformed, as for `moe_patch.load`.
    """
    try:
        with opened_file(path) as (file, size):
            return parse_metadata(read_header(file, size, HeaderLimits()).metadata)
    except OSError as error:
        raise PatchError(f"{path}: cannot be read: {error.strerror}") from error
    except PatchError as error:
        raise type(error)(f"{path}: {error}") from error


def patch_lineage(path: Path, folders: Iterable[Path]) -> list[Ancestor]:
    """The patch at `path` and all patches that it was made from; parents follow their child.

    Args:
        folders: where to look for the parents' files, by the hash that each declares. Files that are not
            patches are skipped.

    Raises:
        PatchError: the patch at `path` is malformed.
    """
    own = read_metadata(path)
    known = _patches_in(folders) | {own.hash: (path, own)}
    found: list[Ancestor] = []
    waiting = [(own.hash, 0)]
    while waiting:
        digest, depth = waiting.pop()
        place, metadata = known.get(digest, (None, None))
        again = any(ancestor.hash == digest for ancestor in found)
        found.append(Ancestor(digest, depth, place, metadata))
        if metadata is not None and not again:  # a forged file may be its own parent
            waiting += [(parent, depth + 1) for parent in reversed(metadata.parents)]
    return found


def _patches_in(folders: Iterable[Path]) -> dict[str, tuple[Path, Metadata]]:
    found: dict[str, tuple[Path, Metadata]] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.safetensors")):
            try:
                metadata = read_metadata(path)
            except PatchError:
                continue  # not a patch: most likely a model's weights
            found.setdefault(metadata.hash, (path, metadata))
    return found

"""Hashes of files that were computed before, found again without reading the files.

Checking a patch against a checkpoint hashes its experts, and the record of a merge has the SHA-256 of whole
shards: gigabytes that are the same at every merge into the same base. A file counts as unchanged while its
path, inode, size, time of change and header are the same. A hash is stored only if the last change is some
seconds ago, because a second change within the clock's resolution would not show (git's index does the same).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from pydantic import JsonValue

from moe_patch.io import cache

_KIND = "hashes"
_SETTLED = 2e9  # nanoseconds since the last change


def known_hash(
    what: JsonValue, files: Sequence[Path], compute: Callable[[], str], *, fresh: bool = False
) -> str:
    """The SHA-256 in hexadecimal that `compute` gives for these safetensors files, computed or known.

    Args:
        what: everything that the hash depends on besides the files.
        files: the files that are hashed.
        compute: computes the hash.
        fresh: compute it even if it is known.
    """
    before = [_identity(path) for path in files]
    address = {"what": what, "files": before}
    found = None if fresh else cache.load_tensors(_KIND, address)
    if found is not None:
        return bytes(found["sha256"].tolist()).hex()
    digest = compute()
    settled = all(time.time_ns() - path.stat().st_mtime_ns > _SETTLED for path in files)
    if settled and [_identity(path) for path in files] == before:
        cache.store_tensors(
            _KIND, address, {"sha256": torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8)}
        )
    return digest


def _identity(path: Path) -> list[JsonValue]:
    path = path.resolve()  # the Hub's cache holds links to the actual files
    stat = path.stat()
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = hashlib.sha256(file.read(min(length, stat.st_size))).hexdigest()
    return [str(path), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, header]

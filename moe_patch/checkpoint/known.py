"""Hashes of files that were computed before, found again by what identifies the files.

Holding a patch against a checkpoint hashes its experts, and a record of a merge names the SHA-256 of whole
shards: gigabytes that are the same at every merge into the same base. A file counts as the same while its
path, inode, size, time of change and header are. A hash is only kept for files whose time of change lies some
seconds back, because a change within the clock's resolution would leave no trace (as in git's index).
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
    """The SHA-256, in hexadecimal, that `compute` gives for these safetensors files, or once gave.

    Args:
        what: all that it depends on besides the files.
        fresh: compute it, whatever is known.
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
    path = path.resolve()  # the Hub's cache holds links to the files proper
    stat = path.stat()
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = hashlib.sha256(file.read(min(length, stat.st_size))).hexdigest()
    return [str(path), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, header]

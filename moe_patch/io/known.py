"""Hashes of files that were computed before, found again without reading the files.

A fingerprint hashes all weights of a checkpoint, and the record of a merge has the SHA-256 of whole shards:
gigabytes that are the same every time. A file counts as unchanged while its path, inode, size, time of change
and header are the same. A hash is stored only if the last change is some seconds ago, because a second change
within the clock's resolution would not show (git's index does the same).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import JsonValue
from torch import Tensor

from moe_patch.errors import ModelError
from moe_patch.io import cache
from moe_patch.io.reading import file_sha256

_KIND = "hashes"
_SETTLED = 2e9  # nanoseconds since the last change
_LIMIT = 256 * 2**20  # most bytes of stored entries; the hashes of a model of 30B parameters take one million


@dataclass(frozen=True, slots=True)
class Known:
    """What is known about some files as they are now: hashes as tensors, by name.

    `what` is all that the hashes depend on besides the files.
    """

    what: JsonValue
    files: tuple[Path, ...]
    identity: JsonValue

    @classmethod
    def of(cls, what: JsonValue, files: Sequence[Path]) -> Known:
        """Look at the files. What is computed from them is to be read after this.

        Raises:
            ModelError: a file cannot be read.
        """
        return cls(what, tuple(files), _identities(files))

    def find(self) -> dict[str, Tensor] | None:
        """What was stored about the same files; None if nothing was."""
        return cache.load_tensors(_KIND, self._address())

    def store(self, hashes: dict[str, Tensor], *, own: Collection[Path] = ()) -> None:
        """Store hashes, unless the files are too new or have changed since `of`.

        Args:
            hashes: CPU tensors by name.
            own: files that this process has just written, so that nobody else is changing them.

        Raises:
            ModelError: a file cannot be read any more.
        """
        others = [path for path in self.files if path not in own]
        with _readable():
            settled = all(time.time_ns() - path.stat().st_mtime_ns > _SETTLED for path in others)
        if settled and _identities(self.files) == self.identity:
            cache.store_tensors(_KIND, self._address(), hashes, limit=_LIMIT)

    def _address(self) -> dict[str, JsonValue]:
        return {"what": self.what, "files": self.identity}


def known_hash(
    what: JsonValue, files: Sequence[Path], compute: Callable[[], str], *, fresh: bool = False
) -> str:
    """The SHA-256 in hexadecimal that `compute` gives for these files, computed or known.

    Args:
        what: everything that the hash depends on besides the files.
        files: the files that are hashed.
        compute: computes the hash.
        fresh: compute it even if it is known.

    Raises:
        ModelError: a file cannot be read, here or by `compute`.
    """
    known = Known.of(what, files)
    found = None if fresh else known.find()
    if found is not None:
        return digest_text(found["sha256"])
    with _readable():
        digest = compute()
    known.store({"sha256": digest_tensor(digest)})
    return digest


def known_sha256(path: Path, *, fresh: bool = False) -> str:
    """The SHA-256 of a file in hexadecimal, computed or known. Arguments and errors as for `known_hash`."""
    return known_hash("file", [path], lambda: file_sha256(path), fresh=fresh)


def digest_tensor(digest: str) -> Tensor:
    """A hash in hexadecimal as it is stored: (32,) uint8."""
    return torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8)


def digest_text(stored: Tensor) -> str:
    """A stored hash (32,) in hexadecimal."""
    return bytes(stored.tolist()).hex()


@contextmanager
def _readable() -> Iterator[None]:
    """Name the file that cannot be read: checkpoints are deleted and moved while they are in use."""
    try:
        yield
    except OSError as error:
        named = error.filename or "a file of the checkpoint"
        raise ModelError(f"{named} cannot be read: {error.strerror or error}") from error


def _identities(files: Sequence[Path]) -> list[JsonValue]:
    with _readable():
        return [_identity(path) for path in files]


def _identity(path: Path) -> list[JsonValue]:
    path = path.resolve()  # the Hub's cache holds links to the actual files
    stat = path.stat()
    found: list[JsonValue] = [str(path), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns]
    return [*found, _header(path, stat.st_size)] if path.suffix == ".safetensors" else found


def _header(path: Path, size: int) -> str:
    """The SHA-256 of a safetensors file's header."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return hashlib.sha256(file.read(min(length, size))).hexdigest()

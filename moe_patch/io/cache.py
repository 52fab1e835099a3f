"""Tensors that are costly to compute again, in files named by what they were computed from.

An address is a JSON object with everything that the tensors depend on; its SHA-256 names the file, so
nothing is ever out of date, and entries can be deleted at any time. A file carries its address and a
checksum of its tensors. One that does not match them is reported, ignored and written anew. A kind of which
every build makes new entries is bounded: what has not been used for longest goes first.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from moe_patch.errors import OutputError
from moe_patch.io.files import replacing_file

logger = logging.getLogger(__name__)

_fresh: ContextVar[Path | None] = ContextVar("fresh cache", default=None)


def cache_folder() -> Path:
    """$MOE_PATCH_CACHE, or moe-patch in the user's cache folder: $XDG_CACHE_HOME, or .cache in their home.

    Within `fresh_cache` it is another one.
    """
    if fresh := _fresh.get():
        return fresh
    if chosen := os.environ.get("MOE_PATCH_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moe-patch"


@contextmanager
def fresh_cache() -> Iterator[None]:
    """An empty cache for as long as the block runs: what was kept is neither used nor added to."""
    with TemporaryDirectory(prefix="moe-patch-") as folder:
        token = _fresh.set(Path(folder))
        try:
            yield
        finally:
            _fresh.reset(token)


def load_tensors(kind: str, address: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """The tensors stored at `address`, or None where there are none; a damaged entry is logged as well."""
    path = _path(kind, address)
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError) as error:
        logger.warning("cache entry %s cannot be read and is computed again: %s", path, error)
        return None
    if metadata.get("address") != _canonical(address) or metadata.get("checksum") != _checksum(tensors):
        logger.warning("cache entry %s is damaged and is computed again", path)
        return None
    with suppress(OSError):  # a cache that may only be read is as good
        os.utime(path)
    return tensors


def store_tensors(
    kind: str, address: Mapping[str, Any], tensors: Mapping[str, Tensor], *, limit: int | None = None
) -> None:
    """Keep CPU tensors at `address`. A failure to write is logged only: nothing is lost but time.

    Args:
        limit: bytes that entries of this kind may take, the new one aside; None does not bound them.
    """
    path = _path(kind, address)
    metadata = {"address": _canonical(address), "checksum": _checksum(tensors)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(path) as temporary:
            save_file(dict(tensors), temporary, metadata=metadata)
        if limit is not None:
            _bound(path, limit)
    except (OSError, OutputError, SafetensorError) as error:
        logger.warning("%s cannot be cached and will be computed again next time: %s", kind, error)


def _bound(new: Path, limit: int) -> None:
    """Delete entries beside the new one, the longest unused first, until the others take `limit` bytes."""
    entries = []
    for path in new.parent.glob("*.safetensors"):
        with suppress(FileNotFoundError):  # another process is at it too
            found = path.stat()
            entries.append((found.st_mtime_ns, found.st_size, path))
    room = limit
    for _, size, path in sorted(entries, reverse=True):
        if path != new:
            room -= size
            if room < 0:
                path.unlink(missing_ok=True)


def _path(kind: str, address: Mapping[str, Any]) -> Path:
    name = hashlib.sha256(_canonical(address).encode()).hexdigest()
    return cache_folder() / kind / f"{name}.safetensors"


def _canonical(address: Mapping[str, Any]) -> str:
    return json.dumps(address, sort_keys=True, separators=(",", ":"))


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

"""A cache of tensors that are costly to compute, in files named by what they were computed from.

An address is a JSON object with everything that the tensors depend on. Its SHA-256 names the file, so no
entry is ever out of date, and entries can be deleted at any time. A file also contains its address and a
checksum of its tensors. If these do not match, the file is reported, ignored and written again. Where every
build adds entries, their total size is limited, and those unused for longest are deleted first.

Nothing that happens to the folder ends the work: if it cannot be found, read or written, that is said once
and everything is computed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from moe_patch.errors import ConfigError, OutputError
from moe_patch.io.files import replacing_file

logger = logging.getLogger(__name__)

_fresh: ContextVar[Path | None] = ContextVar("fresh cache", default=None)


def cache_folder() -> Path:
    """The folder of the cache.

    It is $MOE_PATCH_CACHE if set, else $XDG_CACHE_HOME/moe-patch if set, else ~/.cache/moe-patch. Inside
    `fresh_cache` it is a temporary folder.

    Raises:
        ConfigError: neither variable is set, and there is no home folder.
    """
    if fresh := _fresh.get():
        return fresh
    if chosen := os.environ.get("MOE_PATCH_CACHE"):
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moe-patch"
    except RuntimeError as error:
        raise ConfigError("there is no home folder for the cache: set MOE_PATCH_CACHE to a folder") from error


@contextmanager
def fresh_cache() -> Iterator[None]:
    """Use an empty cache inside the block. The usual cache is neither read nor written meanwhile."""
    with TemporaryDirectory(prefix="moe-patch-") as folder:
        token = _fresh.set(Path(folder))
        try:
            yield
        finally:
            _fresh.reset(token)


def load_tensors(kind: str, address: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """The tensors stored at `address`, or None. What cannot be read is logged and counts as none."""
    try:
        path = _path(kind, address)
        if not path.exists():
            return None
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        logger.warning("cache entry %s cannot be read and is computed again: %s", path, error)
        return None
    except (OSError, ConfigError) as error:
        _warn_once(f"cached {kind} cannot be read, so they are computed: {_reason(error)}")
        return None
    if metadata.get("address") != _canonical(address) or metadata.get("checksum") != _checksum(tensors):
        logger.warning("cache entry %s is damaged and is computed again", path)
        return None
    with suppress(OSError):  # a read-only cache works as well
        os.utime(path)
    return tensors


def store_tensors(
    kind: str, address: Mapping[str, Any], tensors: Mapping[str, Tensor], *, limit: int | None = None
) -> None:
    """Store CPU tensors at `address`. A failure to write is only logged, since it costs nothing but time.

    Args:
        kind: the folder of entries of this sort, for example "moments".
        address: everything that the tensors depend on, as a JSON object.
        tensors: CPU tensors by name.
        limit: most bytes that the other entries of this kind may take; None for no limit.
    """
    metadata = {"address": _canonical(address), "checksum": _checksum(tensors)}
    try:
        path = _path(kind, address)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(path) as temporary:
            save_file(dict(tensors), temporary, metadata=metadata)
        if limit is not None:
            _bound(path, limit)
    except (OSError, ConfigError, OutputError, SafetensorError) as error:
        _warn_once(f"{kind} cannot be cached and will be computed again next time: {_reason(error)}")


def _reason(error: Exception) -> str:
    """Why the folder cannot be used, without the name of the entry, which is a hash."""
    if isinstance(error, ConfigError):
        return str(error)
    cause = error.__cause__ or error
    return f"{cache_folder()}: {getattr(cause, 'strerror', None) or cause}"


@cache
def _warn_once(text: str) -> None:
    logger.warning("%s", text)


def _bound(new: Path, limit: int) -> None:
    """Delete the entries unused for longest until all but the new one take at most `limit` bytes."""
    entries = []
    for path in new.parent.glob("*.safetensors"):
        with suppress(FileNotFoundError):  # another process may have deleted it
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

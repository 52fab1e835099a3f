"""The files of a checkpoint folder besides its weights, and how files are recognised again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import JsonValue

from moe_patch.checkpoint.record import RECORD
from moe_patch.checkpoint.shards import INDEX, is_sharded

_INDEX = ".index.json"  # of shards in any format
_WEIGHTS = {".bin", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".pt", ".pth", ".safetensors"}


def companion_files(folder: Path) -> Iterator[str]:
    """What is copied with the weights: config, tokenizer, model card, code; hidden files are left out.

    Weights in other formats are left out too, because they would still hold the earlier facts. An index goes
    with the shards that it names: it is copied only if the weights are read through it.
    """
    used = INDEX if is_sharded(folder) else None
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        weights = path.suffix in _WEIGHTS or (path.name.endswith(_INDEX) and str(name) != used)
        hidden = any(part.startswith(".") for part in name.parts)
        if path.is_file() and not weights and not hidden and str(name) != RECORD:
            yield name.as_posix()


def file_stamps(folder: Path, names: Sequence[str]) -> list[JsonValue]:
    """Name, size in bytes and time of change of each file: two states of a folder differ in these."""
    found = [(name, (folder / name).stat()) for name in names]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in found]

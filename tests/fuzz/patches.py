"""Mutation of patch files, whose content hash is right again afterwards."""

from __future__ import annotations

import copy
import hashlib
import json
import random
import struct
from dataclasses import dataclass
from typing import Any

from moe_patch.io.strict_json import canonical_json
from tests.fuzz.values import KNOWN, LEAVES, mutate_bytes, mutate_json

NUMBERS = [0.0, -0.0, 1.0, 1e-38, 1e18, 1e30, 3.4e38, -3.4e38, float("inf"), float("nan")]
INDICES = [0, 1, -1, 3, 7, 8, 4_999, 2**31 - 1, -(2**31)]


@dataclass
class Parts:
    """A patch file taken apart; a tensor is a dtype, a shape and its bytes."""

    metadata: Any
    tensors: dict[str, tuple[str, list[int], bytes]]


def take_apart(raw: bytes) -> Parts:
    start = 8 + int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8:start]), raw[start:]
    metadata = json.loads(header.pop("__metadata__")["moe_patch"])
    tensors = {
        name: (entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }
    return Parts(metadata, tensors)


def put_together(parts: Parts) -> bytes:
    """A file of these parts, with the hash that docs/format.md describes."""
    header: dict[str, Any] = {}
    listing: dict[str, Any] = {}
    data = b""
    for name, (dtype, shape, raw) in sorted(parts.tensors.items(), key=lambda item: (item[1][0], item[0])):
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        listing[name] = {"dtype": dtype, "shape": shape, "sha256": hashlib.sha256(raw).hexdigest()}
        data += raw
    try:
        metadata = parts.metadata
        if isinstance(metadata, dict):
            body = {key: value for key, value in metadata.items() if key != "hash"}
            text = canonical_json({"metadata": body, "tensors": listing})
            metadata = body | {"hash": f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"}
        header["__metadata__"] = {"moe_patch": canonical_json(metadata)}
    except (TypeError, ValueError):
        header["__metadata__"] = {"moe_patch": json.dumps(parts.metadata)}
    text = json.dumps(header, ensure_ascii=False).encode("utf-8", "surrogatepass")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def mutate_patch(raw: bytes, chance: random.Random) -> bytes:
    """A patch file, changed in its bytes, its header, its metadata or its tensors."""
    if chance.random() < 0.1:
        return mutate_bytes(raw, chance)
    parts = copy.deepcopy(take_apart(raw))
    for _ in range(chance.choice([1, 1, 2, 3])):
        how = chance.random()
        if how < 0.3:
            parts.metadata = mutate_json(parts.metadata, chance)
        elif how < 0.5:
            _say(parts, chance)
        elif how < 0.6:
            _drop_facts(parts, chance)
        else:
            chance.choice([_numbers, _indices, _no_rows, _rename, _reshape, _remove])(parts, chance)
    return put_together(parts)


def _say(parts: Parts, chance: random.Random) -> None:
    """A hyper-parameter or a result that the commands read, of its type or of any."""
    if isinstance(parts.metadata, dict):
        results = parts.metadata.get("results")
        objects = [parts.metadata.get("hyperparameters"), *(results if isinstance(results, list) else [])]
        where = chance.choice([one for one in objects if isinstance(one, dict)] or [{}])
        where[chance.choice([*KNOWN, *where, "loss"])] = chance.choice(
            chance.choice([LEAVES, *KNOWN.values()])
        )


def _pick(parts: Parts, chance: random.Random, kind: str = "") -> str | None:
    names = [name for name, (dtype, _, raw) in parts.tensors.items() if raw and dtype.startswith(kind)]
    return chance.choice(names) if names else None


def _numbers(parts: Parts, chance: random.Random) -> None:
    _set(parts, chance, "F32", lambda: struct.pack("<f", chance.choice(NUMBERS)))


def _indices(parts: Parts, chance: random.Random) -> None:
    _set(parts, chance, "I32", lambda: struct.pack("<i", chance.choice(INDICES)))


def _set(parts: Parts, chance: random.Random, kind: str, value: Any) -> None:
    """One element, some, or all become a value."""
    if (name := _pick(parts, chance, kind)) is not None:
        dtype, shape, raw = parts.tensors[name]
        changed, one = bytearray(raw), value()
        share = chance.choice([0.0, 0.1, 1.0])
        chosen = [place for place in range(0, len(raw), 4) if chance.random() < share]
        for place in chosen or [4 * chance.randrange(len(raw) // 4)]:
            changed[place : place + 4] = one
        parts.tensors[name] = dtype, shape, bytes(changed)


def _no_rows(parts: Parts, chance: random.Random) -> None:
    """A layer loses all its rows, or all but the first."""
    if (name := _pick(parts, chance)) is not None and name.count(".") == 2:
        group, left = name.rpartition(".")[0], chance.choice([0, 1])
        for part in ("left", "right", "expert", "fact", "key", "residual", "dense", "dense_expert"):
            if f"{group}.{part}" in parts.tensors and (part != "left" or chance.random() < 0.5):
                _cut(parts, f"{group}.{part}", left)


def _drop_facts(parts: Parts, chance: random.Random) -> None:
    """All facts go, or all but the first, with what the tensors hold of each."""
    if isinstance(parts.metadata, dict):
        left = chance.choice([0, 1])
        for key in ("facts", "results"):
            if isinstance(parts.metadata.get(key), list):
                del parts.metadata[key][left:]
        for name in parts.tensors:
            if name.endswith(".residual") or (name.endswith(".left") and chance.random() < 0.5):
                _cut(parts, name, left)


def _cut(parts: Parts, name: str, rows: int) -> None:
    dtype, shape, raw = parts.tensors[name]
    if shape and rows < shape[0]:
        parts.tensors[name] = dtype, [rows, *shape[1:]], raw[: len(raw) // shape[0] * rows]


def _rename(parts: Parts, chance: random.Random) -> None:
    if (name := _pick(parts, chance)) is not None:
        other = chance.choice(
            [*parts.tensors, "delta.77.left", "x", "bypass.\x1b[2J", name.replace("0", "1")]
        )
        parts.tensors[other] = parts.tensors.pop(name)


def _reshape(parts: Parts, chance: random.Random) -> None:
    if (name := _pick(parts, chance)) is not None:
        dtype, shape, raw = parts.tensors[name]
        turned = chance.choice([shape[::-1], [*shape, 1], [1, *shape], [len(raw) // 4], [0, 2**17]])
        parts.tensors[name] = dtype, turned, b"" if 0 in turned else raw


def _remove(parts: Parts, chance: random.Random) -> None:
    if (name := _pick(parts, chance)) is not None:
        del parts.tensors[name]

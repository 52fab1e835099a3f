"""Hashing the values of tensors, whatever their storage, on all cores.

A tensor is hashed in pieces: a stack of expert matrices in its experts, any other tensor in runs of elements.
A piece is hashed in the narrowest dtype that holds its numbers exactly, so a bf16 checkpoint and its copy in
fp32 have the same hashes. What is remembered of a tensor are its pieces' hashes, from which its own follows:
after one expert has changed, only that expert is hashed again.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from moe_patch.progress import Progress

RUN = 2**21  # elements in a piece of a tensor that is not a stack of experts

_AHEAD = 4  # pieces that each thread has waiting
_PATIENCE = 2.0  # seconds before progress is worth a word


@dataclass(frozen=True, slots=True)
class Pieces:
    """Consecutive pieces of one tensor, to be read and hashed together."""

    name: str  # of the tensor
    first: int  # the number of the first piece
    size: int  # bytes to read
    read: Callable[[], Iterable[Tensor]]  # the pieces, on the CPU; may use one buffer for all


def runs(values: Tensor) -> Iterator[Tensor]:
    """The pieces of a tensor that is not a stack of experts."""
    return iter(values.reshape(-1).split(RUN) if values.numel() else (values,))


class HashProgress:
    """Counts hashed bytes, and reports them if hashing takes more than two seconds."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total, self._progress = total, progress
        self._done, self._began = 0, time.monotonic()

    def add(self, size: int) -> None:
        """`size` more bytes are hashed."""
        self._done += size
        if self._progress is not None and time.monotonic() - self._began > _PATIENCE:
            self._progress("mebibytes hashed", self._done >> 20, self._total >> 20)


def run_count(shape: Sequence[int]) -> int:
    """The number of runs that a tensor of this shape has."""
    return max(1, -(-torch.Size(shape).numel() // RUN))


def hash_pieces(
    work: Iterable[Pieces],
    *,
    total: int = 0,
    progress: Progress | None = None,
    threads: int | None = None,
) -> dict[str, Tensor]:
    """The pieces' hashes by the tensors' names: (n, 32) uint8, in the order of their numbers.

    Args:
        work: pieces, in the order in which they are best read.
        total: bytes of all pieces, for the progress.
        progress: called as progress("mebibytes hashed", done, total), if it takes more than two seconds.
        threads: how many hash at a time; None for as many as there are cores.
    """
    threads, report = threads or os.cpu_count() or 1, HashProgress(total, progress)
    found: dict[str, dict[int, bytes]] = {}
    waiting: deque[tuple[Pieces, Future[list[bytes]]]] = deque()

    def settle() -> None:
        pieces, future = waiting.popleft()
        found.setdefault(pieces.name, {}).update(enumerate(future.result(), pieces.first))
        report.add(pieces.size)

    with ThreadPoolExecutor(threads) as pool:
        for pieces in work:
            waiting.append((pieces, pool.submit(_read_and_hash, pieces)))
            if len(waiting) > threads * _AHEAD:
                settle()
        while waiting:
            settle()
    return {name: _rows([rows[number] for number in sorted(rows)]) for name, rows in found.items()}


def piece_hash(values: Tensor) -> bytes:
    """The SHA-256 of a tensor's numbers in the narrowest dtype, 32 bytes."""
    narrow = _narrowest(values.detach().reshape(-1))
    digest = hashlib.sha256(f"{narrow.dtype} {len(narrow)}\n".encode())
    digest.update(narrow.contiguous().view(torch.uint8).numpy().data)
    return digest.digest()


def leaf_hash(shape: Sequence[int], pieces: Tensor) -> str:
    """The hash of a tensor, "sha256:...", by its shape and the hashes of its pieces, (n, 32) uint8."""
    digest = hashlib.sha256(f"{list(shape)}\n".encode())
    digest.update(pieces.contiguous().numpy().data)
    return f"sha256:{digest.hexdigest()}"


def _read_and_hash(pieces: Pieces) -> list[bytes]:
    return [piece_hash(values) for values in pieces.read()]


def _rows(digests: Sequence[bytes]) -> Tensor:
    return torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8).view(-1, 32)


def _narrowest(values: Tensor) -> Tensor:
    """The same numbers (n,) in the narrowest of bf16, fp16 and fp32 that holds each of them to the bit."""
    if values.dtype == torch.float64:
        single = values.float()
        if not _same_bits(single.double(), values):
            return values
        values = single
    if values.dtype not in (torch.float16, torch.float32):
        return values  # bf16 already, or no float
    halves = values.float().view(torch.int16)  # (2n,) little-endian: the lower half of a number comes first
    if not bool(halves[::2].any()):
        return halves[1::2].clone(memory_format=torch.contiguous_format).view(torch.bfloat16)
    if values.dtype == torch.float32 and _same_bits((half := values.half()).float(), values):
        return half
    return values


def _same_bits(first: Tensor, second: Tensor) -> bool:
    return torch.equal(first.view(torch.uint8), second.view(torch.uint8))

"""Preserved text, whose keys a patch should leave alone, as texts and as batches of tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from moe_patch.data.reader import Reader
from moe_patch.data.text_files import file_texts

_TEXTS_AT_ONCE = 1024  # texts tokenised in one call; after each call, the tokens so far are counted


@dataclass(frozen=True, slots=True)
class Corpus:
    """Texts in a fixed order, with a name for people and a hash for caches."""

    name: str
    texts: tuple[str, ...]

    @classmethod
    def read(cls, path: str | Path) -> Corpus:
        """The texts of one file, as `file_texts` reads them.

        Raises:
            ConfigError: a package is missing that a file of this kind needs.
            StatisticsError: the file cannot be read, or contains no text or something else.
        """
        path = Path(path)
        return cls(path.name, tuple(file_texts(path)))

    @property
    def hash(self) -> str:
        """SHA-256 of the texts in their order. The name does not count."""
        digest = hashlib.sha256()
        for text in self.texts:
            encoded = text.encode()
            digest.update(len(encoded).to_bytes(8, "little"))
            digest.update(encoded)
        return f"sha256:{digest.hexdigest()}"

    def sequences(self, reader: Reader, *, max_tokens: int | None, length: int) -> Iterator[list[int]]:
        """Token sequences in the order of the texts, cut off after `max_tokens` tokens.

        A text longer than `length` tokens is split into several sequences, each with the special tokens that
        the tokenizer puts before a text. They count towards `max_tokens`, since the model sees them too.

        Raises:
            PromptError: a token has no row in the model's embedding.
        """
        left = max_tokens
        for start in range(0, len(self.texts), _TEXTS_AT_ONCE):
            some = list(self.texts[start : start + _TEXTS_AT_ONCE])
            for sequence in reader.sequences(some, length):
                kept = sequence[:left]
                if kept:
                    yield kept
                if left is not None:
                    left -= len(kept)
                    if not left:
                        return


def padded_batches(sequences: list[list[int]], size: int, pad: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Ids (B, S) and masks (B, S) of batches of at most `size` tokens, with padding on the right counted.

    Sequences of similar length share a batch, so that the model runs little padding. A sequence longer than
    `size` is a batch of its own.
    """
    batch: list[list[int]] = []
    for sequence in sorted(sequences, key=len):
        if batch and len(sequence) * (len(batch) + 1) > size:
            yield _pad(batch, pad)
            batch = []
        batch.append(sequence)
    if batch:
        yield _pad(batch, pad)


def _pad(batch: list[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    longest = max(map(len, batch))
    ids = torch.tensor([sequence + [pad] * (longest - len(sequence)) for sequence in batch])  # (B, S)
    lengths = torch.tensor([len(sequence) for sequence in batch])
    return ids, (torch.arange(longest) < lengths[:, None]).long()

"""Preserved text, whose keys a patch should leave alone: read from a file and cut into batches of tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from moe_patch.data.reader import Reader
from moe_patch.data.text import composed
from moe_patch.errors import StatisticsError
from moe_patch.io.reading import read_file

_MAX_BYTES = 4 * 2**30  # all texts are in memory at once
_TEXTS_AT_ONCE = 1024  # texts tokenised in one call; after each call, the tokens so far are counted


@dataclass(frozen=True, slots=True)
class Corpus:
    """Texts in a fixed order, with a name for people and a hash for caches."""

    name: str
    texts: tuple[str, ...]

    @classmethod
    def read(cls, path: str | Path) -> Corpus:
        """The texts of a UTF-8 file.

        In a .jsonl file, each line is a JSON object whose "text" is taken; other fields are ignored. In any
        other file, each line is a text. Empty lines and empty texts are skipped.

        Raises:
            StatisticsError: the file cannot be read or contains no text, or a line is not UTF-8, not JSON,
                or has no text. The message names the file and the line.
        """
        path = Path(path)
        try:
            lines = read_file(path, _MAX_BYTES).splitlines()
        except OSError as error:
            raise StatisticsError(f"cannot read the corpus {path}: {error.strerror}") from error
        parse = _json_text if path.suffix == ".jsonl" else str.strip
        texts = []
        for number, line in enumerate(lines, start=1):
            try:
                content = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                text = composed(parse(content)) if content else ""
            except ValueError as error:  # not UTF-8, not JSON, or no "text"
                raise StatisticsError(f"{path}:{number}: {error}") from error
            if text:
                texts.append(text)
        if not texts:
            raise StatisticsError(f"the corpus {path} contains no text: give one text per line")
        return cls(path.name, tuple(texts))

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


def _json_text(line: str) -> str:
    record = json.loads(line)
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise ValueError('expected a JSON object with a string "text"')
    return text.strip()

"""Small tokenizers of every kind that models use, and the bytes of text behind each of their tokens."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<unk>", "<s>", "</s>")
_BYTES = tuple(f"<0x{number:02X}>" for number in range(256))
_MERGES = [("R", "Ã©"), ("Ã", "©"), ("©", "Ġ"), ("Ġ", "Ġ"), ("Ġ", "i"), ("s", "Ċ"), ("e", "Ġ")]
_WORDS = [("▁", "i"), ("▁i", "s"), ("▁", "R"), ("i", "s")]


def byte_level(
    *, trim: bool, prefix_space: bool = False, words: bool = False, ends: bool = False
) -> Tokenizer:
    """BPE on bytes, as of GPT-2, Qwen, Llama 3 and DeepSeek; `words` keeps merges within words."""
    pieces = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    pieces += dict.fromkeys(first + second for first, second in _MERGES)
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges = [("Ã", "©"), *(merge for merge in _MERGES if merge != ("Ã", "©"))]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=words)
    return _framed(tokenizer, [processors.ByteLevel(trim_offsets=trim, add_prefix_space=prefix_space)], ends)


def metaspace(*, normalised: bool, ends: bool = False) -> Tokenizer:
    """BPE that writes a blank as ▁ and unknown characters as bytes, as of Llama 2 and Mixtral."""
    pieces = [*SPECIAL, *_BYTES, "▁", *string.ascii_letters, *(first + second for first, second in _WORDS)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, _WORDS, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    if normalised:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return _framed(tokenizer, [], ends)


def unigram(*, ends: bool = False) -> Tokenizer:
    """Unigram with bytes, as of Gemma's and T5's family; its bytes have the span of their whole run."""
    pieces = [*SPECIAL, *_BYTES, "▁", *string.ascii_letters, "▁is"]
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    return _framed(tokenizer, [], ends)


def word_pieces(*, ends: bool = True) -> Tokenizer:
    """Lower-case word pieces between [CLS] and [SEP], as of BERT; white space is no token."""
    pieces = [*SPECIAL, *string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase), "東"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _framed(tokenizer, [], ends)


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "bytes": lambda: byte_level(trim=False),
    "bytes, trimmed": lambda: byte_level(trim=True, ends=True),
    "bytes, in words": lambda: byte_level(trim=False, words=True, ends=True),
    "bytes, in words, trimmed": lambda: byte_level(trim=True, words=True, prefix_space=True),
    "metaspace": lambda: metaspace(normalised=False, ends=True),
    "metaspace, normalised": lambda: metaspace(normalised=True),
    "unigram": lambda: unigram(ends=True),
}
"""Tokenizers that lose nothing of a text, by kind."""


def wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer as transformers has it."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def spelled_bytes(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> list[bytes]:
    """The bytes of text that each token of a lossless tokenizer stands for, told from its vocabulary."""
    return [_spelled(piece, "Ġ" in tokenizer.get_vocab()) for piece in tokenizer.convert_ids_to_tokens(ids)]


def _spelled(piece: str, of_bytes: bool) -> bytes:
    if piece in SPECIAL:
        return b""
    if of_bytes:
        return bytes(_BYTE_OF[letter] for letter in piece)
    if piece in _BYTES:
        return bytes([int(piece[3:5], 16)])
    return piece.replace("▁", " ").encode()


def _bytes_of_letters() -> dict[str, int]:
    """GPT-2's letters for bytes: printable ones stand for themselves, the others for those from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [number for number in range(256) if number not in printable]
    return {chr(number): number for number in printable} | {
        chr(256 + place): number for place, number in enumerate(others)
    }


_BYTE_OF = _bytes_of_letters()


def _framed(tokenizer: Tokenizer, steps: list[processors.PostProcessor], ends: bool) -> Tokenizer:
    """A BOS before every text, and with `ends` an EOS behind it."""
    frame = "<s> $A </s>" if ends else "<s> $A"
    special = [(piece, SPECIAL.index(piece)) for piece in ("<s>", "</s>")]
    steps.append(processors.TemplateProcessing(single=frame, special_tokens=special))
    tokenizer.post_processor = processors.Sequence(steps)
    return tokenizer

"""Sentences that a base writes itself, and how likely it finds each of their words.

Nothing here knows a language: sentences end where Unicode's marks say so, and words are what white space
divides.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from moe_patch.base.decoding import continue_rows
from moe_patch.base.model import Base
from moe_patch.data.prompts import pad_token
from moe_patch.data.text import prompt_text

_END = re.compile(r"(?<=[.!?\u3002\uff01\uff1f\u0964])\s+|[\r\n]+")
_WORDS = range(
    4, 25
)  # of a sentence that is long enough to state something, and short enough to be read alone
_LOGITS = 2**26  # most numbers of logits at once


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a sentence, without the marks around it."""

    start: int  # first character in the sentence
    end: int  # the one after the last
    logprob: float  # of its tokens after those before, in nats; -inf if they are also a neighbour's
    greedy: bool  # whether greedy decoding gives all of them
    closed: bool  # whether a mark stands behind it

    def of(self, sentence: str) -> str:
        """The word itself."""
        return sentence[self.start : self.end]


@dataclass(frozen=True, slots=True)
class Statement:
    """A sentence, as the base reads it."""

    text: str
    words: tuple[Word, ...]


def start_row(base: Base) -> tuple[int, ...]:
    """The tokens that stand before the first one of a text; what ends a text where a tokenizer puts none."""
    before = base.reader.read_fragment("")
    encoded = base.tokenizer("a", return_special_tokens_mask=True)
    for token, special in zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True):
        if not special:
            break
        before.append(token)
    config = base.model.config.get_text_config()
    known = (base.tokenizer.bos_token_id, getattr(config, "bos_token_id", None), base.tokenizer.eos_token_id)
    first = next((token for token in known if token is not None), 0)
    return tuple(before) or (int(first),)


def write_sentences(base: Base, rows: int, tokens: int, seed: int) -> list[str]:
    """Sentences of `rows` sampled texts of at most `tokens` tokens, each once, in their order.

    The caller's random state does not change.

    Raises:
        NumericalError: the logits hold NaN or an infinity.
    """
    devices = [base.device] if base.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        written = continue_rows(base, [start_row(base)] * rows, tokens, sample=True)
    texts = [base.tokenizer.decode(row, skip_special_tokens=True) for row in written]
    return list(dict.fromkeys(sentence for text in texts for sentence in _sentences(text)))


def _sentences(text: str) -> Iterator[str]:
    """The whole sentences of a text, without the last if the text was cut off."""
    for part in _END.split(text):
        sentence = prompt_text(part.strip())
        if len(sentence.split()) in _WORDS and is_mark(sentence[-1]) and "{}" not in sentence:
            yield sentence


def is_mark(character: str) -> bool:
    """Whether a character is a mark of punctuation."""
    return unicodedata.category(character).startswith("P")


@torch.no_grad()
def read_statements(base: Base, sentences: Sequence[str]) -> list[Statement]:
    """The sentences with the likelihood of each word, from one pass over all of them.

    Raises:
        PromptError: as for `Reader.read_text`.
    """
    readings = [base.reader.read_text(sentence) for sentence in sentences]
    longest = max((len(reading.ids) for reading in readings), default=0)
    rows = max(1, _LOGITS // max(1, longest * base.model.config.get_text_config().vocab_size))
    statements = []
    for first in range(0, len(readings), rows):
        some = readings[first : first + rows]
        ids = torch.full((len(some), longest), pad_token(base.tokenizer))  # (B, S)
        mask = torch.zeros_like(ids)
        for row, reading in enumerate(some):
            ids[row, : len(reading.ids)] = torch.tensor(reading.ids)
            mask[row, : len(reading.ids)] = 1
        ids, mask = ids.to(base.device), mask.to(base.device)
        logits = base.model(input_ids=ids, attention_mask=mask, use_cache=False).logits  # (B, S, V)
        scores = logits[:, :-1].float().log_softmax(-1)  # (B, S - 1, V)
        own = scores.gather(2, ids[:, 1:, None].to(scores.device))[..., 0].cpu()  # (B, S - 1)
        greedy = (scores.argmax(-1) == ids[:, 1:].to(scores.device)).cpu()  # (B, S - 1)
        for row, reading in enumerate(some):
            text = sentences[first + row]
            words = _words(
                text, reading.spans, [float("-inf"), *own[row].tolist()], [False, *greedy[row].tolist()]
            )
            statements.append(Statement(text, tuple(words)))
    return statements


def _words(
    text: str, spans: Sequence[tuple[int, int]], logprob: Sequence[float], greedy: Sequence[bool]
) -> Iterator[Word]:
    """The words of a text, from the characters, the log-probability and the choice of each token."""
    for found in re.finditer(r"\S+", text):
        start, end = found.span()
        while start < end and is_mark(text[start]):
            start += 1
        while end > start and is_mark(text[end - 1]):
            end -= 1
        if start == end:
            continue
        own = [i for i, (first, last) in enumerate(spans) if first < end and last > start]
        apart = all(not text[spans[i][0] : start].strip() and spans[i][1] <= end for i in own)
        value = sum(logprob[i] for i in own) if own and apart else float("-inf")
        yield Word(start, end, value, bool(own) and apart and all(greedy[i] for i in own), end < found.end())

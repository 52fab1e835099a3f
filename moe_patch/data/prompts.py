"""From facts to tokens: where the edited token and the target are in each prompt, and batches of prompts.

Positions come from the tokenizer's offset mapping. Counting the tokens of a prefix instead would be wrong
when a subject merges with its neighbours, a BOS is added, or a space belongs to the following token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from moe_patch.data.facts import SLOT, Fact
from moe_patch.data.reader import Reader, Reading
from moe_patch.data.text import composed
from moe_patch.errors import TargetError

FactToken = Literal["subject-last", "last"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One tokenised text: which token an edit changes, and where the answer starts if there is one."""

    ids: tuple[int, ...]
    edited: int  # index into ids of the token whose hidden state is edited
    target: int | None = None  # index into ids where the answer starts; it is the rest of ids


@dataclass(frozen=True, slots=True)
class PromptStyle:
    """How a fact becomes text, and which token of the text is edited."""

    chat: bool = False  # whether the prompt is put into the tokenizer's chat template
    fact_token: FactToken = "subject-last"
    stop: bool = False  # whether an answer is followed by the end of the text, or of the turn in a chat


def encode_fact(
    reader: Any, fact: Fact, style: PromptStyle, *, prefix: str = "", answer: bool = True
) -> Prompt:
    """The fact's prompt after `prefix`, followed by its new target unless `answer` is false.

    Without the answer, the prompt has the same tokens and ends where the answer would start. With it and
    `style.stop`, the end of the text or of the turn belongs to the answer.

    Args:
        reader: the `Reader` of a base, or a tokenizer alone.
        fact: the fact.
        style: how it becomes text.
        prefix: text before the prompt.
        answer: whether the new target follows.

    Raises:
        NoChatTemplate: the style asks for a chat template, but the tokenizer has none.
        PromptError: as for `Reader.read_answer` and, to stop, `Reader.read_end`.
        TargetError: a text has no token for the subject or the target.
    """
    left, right = fact.prompt.split(SLOT)
    left = prefix + left
    reading = Reader.of(reader).read_answer(
        f"{left}{fact.subject_text}{right}", fact.target_new, chat=style.chat, name=f"fact {fact.id}"
    )
    if not reading.answer:
        raise TargetError(f"fact {fact.id}: the target {fact.target_new!r} tokenises to nothing")
    subject_last = _subject_last(reading, fact, left)
    edited = subject_last if style.fact_token == "subject-last" else reading.first - 1
    if not answer:
        return Prompt(reading.prompt, edited)
    return Prompt(reading.ids + _end(Reader.of(reader), reading, fact, style), edited, reading.first)


def _end(reader: Reader, reading: Reading, fact: Fact, style: PromptStyle) -> tuple[int, ...]:
    """What follows the answer in this style."""
    end = reader.read_end(chat=style.chat) if style.stop else ()
    reader.check_room(reading.ids, len(end), f"fact {fact.id}")
    return end


def subject_tokens(reader: Any, fact: Fact, style: PromptStyle) -> tuple[int, ...]:
    """The tokens of the fact's prompt with a part of its subject, as indices into those of `encode_fact`.

    Raises:
        NoChatTemplate: as for `encode_fact`.
        PromptError: as for `Reader.read_answer`.
        TargetError: the subject has no token.
    """
    left, _ = fact.prompt.split(SLOT)
    reading = Reader.of(reader).read_answer(
        fact.text, fact.target_new, chat=style.chat, name=f"fact {fact.id}"
    )
    found = reading.tokens(len(composed(left)), len(composed(left + fact.subject_text)))
    if not found:
        raise _no_subject(fact)
    return found


def encode_essence(reader: Any, fact: Fact, template: str = "{} is a") -> Prompt:
    """The prompt of MEMIT's KL term (arXiv 2210.07229), which keeps what the model says the subject is.

    Raises:
        PromptError: as for `Reader.read_answer`.
        TargetError: the subject has no token.
    """
    left, right = template.split(SLOT)
    reading = Reader.of(reader).read_text(f"{left}{fact.subject_text}{right}", name=f"fact {fact.id}")
    return Prompt(reading.ids, _subject_last(reading, fact, left))


def encode_kept(reader: Any, fact: Fact, style: PromptStyle) -> list[Prompt]:
    """The prompts whose answers the fact asks to keep.

    Raises:
        NoChatTemplate: as for `encode_fact`.
        TargetError: as for `encode_fact`; or there are prompts to keep, but facts are not edited at the
            subject's last token.
    """
    if fact.keep and style.fact_token != "subject-last":
        raise TargetError(
            f"fact {fact.id}: `keep` works at the subject's last token, but facts are edited at the last "
            "token of their prompts: build without --fact-token last, or without `keep`"
        )
    asked = [replace(fact, prompt=prompt, keep=()) for prompt in fact.keep]
    return [encode_fact(reader, other, style, answer=False) for other in asked]


def _subject_last(reading: Reading, fact: Fact, left: str) -> int:
    """The last token of the fact's subject, which follows `left`."""
    found = reading.last_token(len(composed(left)), len(composed(left + fact.subject_text)))
    if found is None:
        raise _no_subject(fact)
    return found


def _no_subject(fact: Fact) -> TargetError:
    return TargetError(f"fact {fact.id}: no token of {fact.text!r} covers the subject {fact.subject!r}")


@dataclass(frozen=True, slots=True)
class Batch:
    """Several prompts, padded to one length."""

    ids: Tensor  # (B, S)
    mask: Tensor  # (B, S) 1 for real tokens
    positions: Tensor  # (B, S) position of each token in its own prompt
    edited: Tensor  # (B,) column of each edited token
    starts: Tensor  # (B,) column of each prompt's first token

    def to(self, device: torch.device) -> Batch:
        """The same batch with the model's inputs on `device`. `edited` and `starts` stay where they are."""
        moved = self.ids.to(device), self.mask.to(device), self.positions.to(device)
        return Batch(*moved, self.edited, self.starts)


def pad_right(prompts: Sequence[Prompt], pad: int) -> Batch:
    """A batch of prompts that all start in the first column, padded on the right."""
    return _batch(prompts, [0] * len(prompts), pad)


def align_prompts(prompts: Sequence[Prompt], pad: int) -> Batch:
    """A batch of prompts padded on both sides so that their edited tokens share a column.

    What the model computes left of that column does not depend on the edit.
    """
    column = max(prompt.edited for prompt in prompts)
    return _batch(prompts, [column - prompt.edited for prompt in prompts], pad)


def _batch(prompts: Sequence[Prompt], starts: list[int], pad: int) -> Batch:
    length = max(start + len(prompt.ids) for start, prompt in zip(starts, prompts, strict=True))
    ids = torch.full((len(prompts), length), pad)  # (B, S)
    mask = torch.zeros_like(ids)
    for row, (start, prompt) in enumerate(zip(starts, prompts, strict=True)):
        ids[row, start : start + len(prompt.ids)] = torch.tensor(prompt.ids)
        mask[row, start : start + len(prompt.ids)] = 1
    first = torch.tensor(starts)
    edited = first + torch.tensor([prompt.edited for prompt in prompts])
    return Batch(ids, mask, (mask.cumsum(1) - 1).clamp_min(0), edited, first)


def pad_token(tokenizer: Any) -> int:
    """The id to pad with. If the tokenizer defines none, any token will do, since padding is masked."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if candidate is not None:
            return int(candidate)
    return 0

"""From facts to tokens: where the edited token and the target are in each prompt, and batches aligned on that token.

Positions come from the tokenizer's offset mapping. Counting the tokens of a prefix instead is wrong wherever a subject merges
with its neighbours, a BOS is added, or a space belongs to the following token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from moe_patch.errors import TargetError
from moe_patch.facts import Fact, continuation

FactToken = Literal["subject-last", "last"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One tokenised text with the token that an edit changes; `target` is where the answer starts, if it holds one."""

    ids: tuple[int, ...]
    edited: int  # index into ids of the token whose hidden state is edited
    target: int | None = None  # index into ids of the first token of the answer


@dataclass(frozen=True, slots=True)
class PromptStyle:
    """How a fact becomes text: as it is or under the tokenizer's chat template, edited at which token."""

    chat: bool = False
    fact_token: FactToken = "subject-last"


def encode_fact(
    tokenizer: Any, fact: Fact, style: PromptStyle, *, prefix: str = "", answer: bool = True
) -> Prompt:
    """The fact's prompt, after `prefix`, with its new target behind it unless `answer` is false.

    Raises:
        TargetError: the tokenizer gives no offsets, has no chat template though one is asked for, or the target vanishes.
    """
    text = f"{prefix}{fact.text}"
    subject = len(prefix) + fact.prompt.index("{}")
    target = continuation(fact.target_new) if answer else ""
    if style.chat:
        before, after = _chat_frame(tokenizer, text)
        text, subject, target = before + text + after, subject + len(before), target.lstrip(" ")
    return _encode(tokenizer, fact, text, (subject, subject + len(fact.subject)), target, style)


def encode_essence(tokenizer: Any, fact: Fact, template: str = "{} is a") -> Prompt:
    """The prompt on which the subject's essence is held: MEMIT's KL prompt (arXiv 2210.07229, appendix)."""
    start = template.index("{}")
    text = template.format(fact.subject)
    return _encode(tokenizer, fact, text, (start, start + len(fact.subject)), "", PromptStyle())


def _chat_frame(tokenizer: Any, text: str) -> tuple[str, str]:
    """What the chat template puts before and after a user's message."""
    if not getattr(tokenizer, "chat_template", None):
        raise TargetError(
            "the tokenizer has no chat template: build without --chat, or give the tokenizer one"
        )
    message = [{"role": "user", "content": text}]
    framed = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    at = framed.rfind(text)
    if at < 0:
        raise TargetError(
            f"the chat template changes the prompt {text!r}, so the subject cannot be found in it"
        )
    return framed[:at], framed[at + len(text) :]


def _encode(
    tokenizer: Any, fact: Fact, text: str, subject: tuple[int, int], target: str, style: PromptStyle
) -> Prompt:
    if not tokenizer.is_fast:
        raise TargetError("a fast tokenizer is needed: only those say which characters a token covers")
    encoded = tokenizer(text + target, return_offsets_mapping=True, add_special_tokens=not style.chat)
    spans = encoded["offset_mapping"]
    answer = [i for i, (start, end) in enumerate(spans) if end > max(start, len(text))]
    if target and not answer:
        raise TargetError(f"fact {fact.id}: the target {fact.target_new!r} tokenises to nothing")
    first = answer[0] if answer else len(spans)
    prompt = [i for i, (start, end) in enumerate(spans[:first]) if end > start]
    inside = [i for i in prompt if spans[i][0] < subject[1] and spans[i][1] > subject[0]]
    if not inside:
        raise TargetError(f"fact {fact.id}: no token of {text!r} covers the subject {fact.subject!r} alone")
    edited = inside[-1] if style.fact_token == "subject-last" else first - 1
    return Prompt(tuple(encoded["input_ids"]), edited, answer[0] if answer else None)


@dataclass(frozen=True, slots=True)
class AlignedBatch:
    """Prompts padded on both sides so that every edited token is in column `column`."""

    ids: Tensor  # (B, S)
    mask: Tensor  # (B, S) 1 for real tokens
    positions: Tensor  # (B, S) position of each token in its own prompt
    column: int

    def to(self, device: torch.device) -> AlignedBatch:
        return AlignedBatch(self.ids.to(device), self.mask.to(device), self.positions.to(device), self.column)


def align(prompts: Sequence[Prompt], pad: int) -> AlignedBatch:
    """A batch whose edited tokens share a column: what lies left of it never changes while they are edited."""
    column = max(p.edited for p in prompts)
    length = column + max(len(p.ids) - p.edited for p in prompts)
    ids = torch.full((len(prompts), length), pad)  # (B, S)
    mask = torch.zeros(len(prompts), length, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        start = column - prompt.edited
        ids[row, start : start + len(prompt.ids)] = torch.tensor(prompt.ids)
        mask[row, start : start + len(prompt.ids)] = 1
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    return AlignedBatch(ids, mask, positions, column)


def pad_right(prompts: Sequence[Prompt], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids (B, S) and mask (B, S) padded on the right only, and the column (B,) of each edited token."""
    length = max(len(p.ids) for p in prompts)
    ids = torch.full((len(prompts), length), pad)  # (B, S)
    mask = torch.zeros(len(prompts), length, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt.ids)] = torch.tensor(prompt.ids)
        mask[row, : len(prompt.ids)] = 1
    return ids, mask, torch.tensor([p.edited for p in prompts])


def pad_token(tokenizer: Any) -> int:
    """The padding id; any token will do where none is defined, since padding is masked."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if candidate is not None:
            return int(candidate)
    return 0

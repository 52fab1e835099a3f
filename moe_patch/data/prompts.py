"""From facts to tokens: where the edited token and the target are in each prompt, and batches of prompts.

Positions come from the tokenizer's offset mapping. Counting the tokens of a prefix instead is wrong wherever
a subject merges with its neighbours, a BOS is added, or a space belongs to the following token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from moe_patch.data.facts import SLOT, Fact, as_continuation
from moe_patch.errors import NoChatTemplate, TargetError

FactToken = Literal["subject-last", "last"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One tokenised text: which token an edit changes, and where the answer starts if the text holds one."""

    ids: tuple[int, ...]
    edited: int  # index into ids of the token whose hidden state is edited
    target: int | None = None  # index into ids of the first token of the answer, which goes on to the end


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
        NoChatTemplate: the tokenizer has none, though one is asked for.
        TargetError: the tokenizer gives no offsets, or a text has no token for the subject or the target.
    """
    text = f"{prefix}{fact.text}"
    subject = len(prefix) + fact.prompt.index(SLOT)
    target = as_continuation(fact.target_new) if answer else ""
    if style.chat:
        before, after = _chat_frame(tokenizer, text)
        text, subject, target = before + text + after, subject + len(before), target.lstrip(" ")
    return _encode(tokenizer, fact, text, (subject, subject + len(fact.subject)), target, style)


def encode_essence(tokenizer: Any, fact: Fact, template: str = "{} is a") -> Prompt:
    """The prompt on which the subject's essence is held: MEMIT's (arXiv 2210.07229) for its KL term.

    Raises:
        TargetError: the tokenizer gives no offsets, or no token for the subject.
    """
    start = template.index(SLOT)
    text = template.replace(SLOT, fact.subject)
    return _encode(tokenizer, fact, text, (start, start + len(fact.subject)), "", PromptStyle())


def encode_kept(tokenizer: Any, fact: Fact, style: PromptStyle) -> list[Prompt]:
    """The prompts whose answers the fact asks to keep.

    Raises:
        TargetError: as `encode_fact`; or facts are edited at another token than what is kept is read from.
    """
    if fact.keep and style.fact_token != "subject-last":
        raise TargetError(
            f"fact {fact.id}: what is to be kept of a subject is held at the subject's last token, and facts "
            "are edited at their prompts': build without --fact-token last, or without `keep`"
        )
    asked = [replace(fact, prompt=prompt, keep=()) for prompt in fact.keep]
    return [encode_fact(tokenizer, other, style, answer=False) for other in asked]


def frame_prompt(tokenizer: Any, text: str, *, chat: bool) -> str:
    """The text as a model reads it: as it is, or as a user's message under the tokenizer's chat template.

    Raises:
        NoChatTemplate: the tokenizer has none, though one is asked for.
    """
    if not chat:
        return text
    if not getattr(tokenizer, "chat_template", None):
        raise NoChatTemplate(
            "the tokenizer has no chat template: go without (--no-chat), or give the tokenizer one"
        )
    message = [{"role": "user", "content": text}]
    return str(tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))


def text_ids(tokenizer: Any, text: str, *, chat: bool) -> tuple[int, ...]:
    """The tokens of a text without an answer, `frame_prompt` or not; NoChatTemplate as there."""
    encoded = tokenizer(frame_prompt(tokenizer, text, chat=chat), add_special_tokens=not chat)
    return tuple(encoded["input_ids"])


def _chat_frame(tokenizer: Any, text: str) -> tuple[str, str]:
    """What the chat template puts before and after a user's message."""
    whole = frame_prompt(tokenizer, text, chat=True)
    at = whole.rfind(text)
    if at < 0:
        raise TargetError(
            f"the chat template changes the prompt {text!r}, so the subject cannot be found in it"
        )
    return whole[:at], whole[at + len(text) :]


def _encode(
    tokenizer: Any, fact: Fact, text: str, subject: tuple[int, int], target: str, style: PromptStyle
) -> Prompt:
    """Tokenise text + target; `subject` is where in the text, in characters, the subject starts and ends.

    A token across the border of text and target belongs to the target, and one across the border of the
    subject to the subject.
    """
    if not tokenizer.is_fast:
        raise TargetError("a fast tokenizer is needed: only those say which characters a token covers")
    encoded = tokenizer(
        text + target,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        add_special_tokens=not style.chat,  # a chat template has written its own
    )
    own = [i for i, special in enumerate(encoded["special_tokens_mask"]) if not special]
    ids = encoded["input_ids"][: own[-1] + 1] if own else []  # an EOS at the end is nobody's answer
    spans = encoded["offset_mapping"][: len(ids)]
    answer = [i for i, (_, end) in enumerate(spans) if end > len(text)]
    if target and not answer:
        raise TargetError(f"fact {fact.id}: the target {fact.target_new!r} tokenises to nothing")
    first = answer[0] if answer else len(ids)
    inside = [i for i, (start, end) in enumerate(spans[:first]) if start < subject[1] and end > subject[0]]
    if not inside:
        raise TargetError(f"fact {fact.id}: no token of {text!r} covers the subject {fact.subject!r}")
    edited = inside[-1] if style.fact_token == "subject-last" else first - 1
    return Prompt(tuple(ids), edited, first if answer else None)


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompts as one rectangle of tokens."""

    ids: Tensor  # (B, S)
    mask: Tensor  # (B, S) 1 for real tokens
    positions: Tensor  # (B, S) position of each token in its own prompt
    edited: Tensor  # (B,) column of each edited token
    starts: Tensor  # (B,) column of each prompt's first token

    def to(self, device: torch.device) -> Batch:
        """The same batch with everything that a model reads on `device`."""
        moved = self.ids.to(device), self.mask.to(device), self.positions.to(device)
        return Batch(*moved, self.edited, self.starts)


def pad_right(prompts: Sequence[Prompt], pad: int) -> Batch:
    """A batch of prompts that all start in the first column."""
    return _batch(prompts, [0] * len(prompts), pad)


def align_prompts(prompts: Sequence[Prompt], pad: int) -> Batch:
    """A batch of prompts padded on both sides so that their edited tokens share a column.

    What lies left of that column never changes while they are edited.
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
    """The padding id; any token will do where none is defined, since padding is masked."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if candidate is not None:
            return int(candidate)
    return 0

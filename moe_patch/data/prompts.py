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

from moe_patch.data.facts import SLOT, Fact, as_continuation
from moe_patch.errors import NoChatTemplate, TargetError

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


def encode_fact(
    tokenizer: Any, fact: Fact, style: PromptStyle, *, prefix: str = "", answer: bool = True
) -> Prompt:
    """The fact's prompt after `prefix`, followed by its new target unless `answer` is false.

    Raises:
        NoChatTemplate: the style asks for a chat template, but the tokenizer has none.
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
    """The prompt of MEMIT's KL term (arXiv 2210.07229), which keeps what the model says the subject is.

    Raises:
        TargetError: the tokenizer gives no offsets, or the subject has no token.
    """
    start = template.index(SLOT)
    text = template.replace(SLOT, fact.subject)
    return _encode(tokenizer, fact, text, (start, start + len(fact.subject)), "", PromptStyle())


def encode_kept(tokenizer: Any, fact: Fact, style: PromptStyle) -> list[Prompt]:
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
    return [encode_fact(tokenizer, other, style, answer=False) for other in asked]


def frame_prompt(tokenizer: Any, text: str, *, chat: bool) -> str:
    """The text as it is, or with `chat` as a user's message in the tokenizer's chat template.

    Raises:
        NoChatTemplate: `chat` is true, but the tokenizer has no chat template.
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
    """The token ids of a prompt without an answer, in the chat template if `chat` is true.

    Raises:
        NoChatTemplate: `chat` is true, but the tokenizer has no chat template.
    """
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
    """Tokenise text + target. `subject` is the subject's start and end in the text, in characters.

    A token that is partly in the target belongs to the target. One that is partly in the subject belongs to
    the subject.
    """
    if not tokenizer.is_fast:
        raise TargetError("a fast tokenizer is needed: slow ones do not say which characters a token covers")
    encoded = tokenizer(
        text + target,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        add_special_tokens=not style.chat,  # a chat template already contains them
    )
    own = [i for i, special in enumerate(encoded["special_tokens_mask"]) if not special]
    ids = encoded["input_ids"][: own[-1] + 1] if own else []  # an EOS at the end is not part of the answer
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

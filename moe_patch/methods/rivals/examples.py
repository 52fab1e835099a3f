"""What fine-tuning reads of facts: tokens, and which of them a loss is taken on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import Prompt, PromptStyle, encode_fact
from moe_patch.errors import ConfigError
from moe_patch.targets.answers import Answers
from moe_patch.targets.tail import Reads

LossOn = Literal["text", "answer", "prompt-end"]
"""All tokens of prompt and answer; those of the answer; or those of the answer, all from the prompt's end."""


@dataclass(frozen=True, slots=True)
class Example:
    """A text, and the tokens that should follow at some of its places."""

    prompt: Prompt  # without tokens after the last place that is read
    place: tuple[int, ...]  # (n,) indices into the prompt's ids, at which logits are read
    token: tuple[int, ...]  # (n,) the token wanted at each


def encode_example(base: Base, fact: Fact, style: PromptStyle, loss_on: LossOn, *, end: bool) -> Example:
    """A fact as an example.

    Args:
        base: whose tokens are used.
        fact: the fact.
        style: how it becomes text.
        loss_on: the tokens that are trained.
        end: whether the end of text is trained as the last token of the answer.

    Raises:
        ConfigError: the end is asked for, but the tokenizer has none.
        TargetError: a text has no token for the subject or the target.
    """
    encoded = encode_fact(base.reader, fact, style)
    start = encoded.target
    assert start is not None  # it was encoded with its answer
    ids = (*encoded.ids, end_of_text(base)) if end else encoded.ids
    if loss_on == "prompt-end":
        return Example(Prompt(ids[:start], encoded.edited), (start - 1,) * len(ids[start:]), ids[start:])
    first = 1 if loss_on == "text" else start
    places = tuple(range(first - 1, len(ids) - 1))
    return Example(Prompt(ids[:-1], encoded.edited), places, ids[first:])


def end_of_text(base: Base) -> int:
    """The token that ends a text.

    Raises:
        ConfigError: the tokenizer has none.
    """
    token = base.tokenizer.eos_token_id
    if token is None:
        raise ConfigError(
            f"the tokenizer of {base.name} has no end of text: train without it (--set end=false)"
        )
    return int(token)


def answers_of(examples: Sequence[Example]) -> Answers:
    """What B examples want, as answers of B prompts."""
    row = [number for number, example in enumerate(examples) for _ in example.place]
    place = [index for example in examples for index in example.place]
    token = [one for example in examples for one in example.token]
    reads = Reads(torch.tensor(row), torch.tensor(place))
    lengths = torch.tensor([len(example.place) for example in examples])
    return Answers(reads, torch.tensor(token), lengths)

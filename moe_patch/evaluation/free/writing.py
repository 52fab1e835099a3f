"""What a model writes by itself after a prompt, until it stops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moe_patch.base.decoding import end_tokens
from moe_patch.base.model import Base
from moe_patch.data.reader import quoted
from moe_patch.errors import PromptError
from moe_patch.evaluation.metrics import Setting
from moe_patch.evaluation.scoring import answer_text, continue_tokens

BUDGET = 32
"""Tokens that a model may write unless it is told otherwise."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model wrote."""

    text: str  # without special tokens and without white space around it
    tokens: tuple[int, ...]
    stopped: bool  # whether the model ended it, and not the budget


def write_freely(
    base: Base, prompts: Sequence[str], setting: Setting, *, budget: int = BUDGET, stage: str = "writing"
) -> dict[str, Reply]:
    """The model's own replies by prompt, written greedily until it ends the text or its turn.

    Equal prompts are run once. Where the model's positions leave less room than the budget, a reply ends
    there.

    Args:
        base: the model, with or without a patch.
        prompts: what it is asked.
        setting: how prompts are run.
        budget: most tokens of a reply.
        stage: the name that progress is reported under.

    Raises:
        EvaluationError: the batch size is below 1.
        NoChatTemplate: as for `Reader.read_question`.
        NumericalError: the logits hold NaN or an infinity.
        PromptError: as for `Reader.read_question`; or the model has no position left for a reply.
    """
    distinct = list(dict.fromkeys(prompts))
    rows = [base.reader.read_question(setting.asked(prompt), chat=setting.chat) for prompt in distinct]
    lengths = [_room(base, prompt, row, budget) for prompt, row in zip(distinct, rows, strict=True)]
    turn_ends = _turn_ends(base) if setting.chat else frozenset()
    written = continue_tokens(
        base,
        rows,
        lengths,
        batch_size=setting.batch_size,
        progress=setting.progress,
        stage=stage,
        also_ends=turn_ends,
    )
    ends, replies = end_tokens(base) | turn_ends, {}
    for prompt, each in zip(distinct, written, strict=True):
        tokens = each.ids[each.first :]
        replies[prompt] = Reply(answer_text(base, each), tokens, bool(tokens) and tokens[-1] in ends)
    return replies


def _turn_ends(base: Base) -> frozenset[int]:
    """What ends a turn in the chat template, which a checkpoint's settings need not name."""
    try:
        return frozenset(base.reader.read_end(chat=True)[-1:])
    except PromptError:  # the template or the tokenizer has no end: the budget has to do
        return frozenset()


def _room(base: Base, prompt: str, row: Sequence[int], budget: int) -> int:
    base.reader.check_room(row, 1, quoted(prompt))
    return budget if base.reader.positions is None else min(budget, base.reader.positions - len(row))

"""Controls: recorded when a patch is built, and measured when it is tried.

Controls are a few prompts that the patch should leave alone: from its facts' neighbourhoods, and beginnings
of preserved text. Their answers are the base's own.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from moe_patch.apply import apply
from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.data.reader import quoted
from moe_patch.data.spacing import spaced
from moe_patch.data.text import prompt_text
from moe_patch.errors import PromptError
from moe_patch.evaluation.scoring import answer_text, continue_greedily, score_answers
from moe_patch.patch import Patch
from moe_patch.patch.controls import LONGEST, Control, Controls, mean_fall

COUNT = 8
ANSWER_TOKENS = 4
PROMPT_WORDS = 8  # of a preserved text

SLACK = 0.1
"""What a bound allows beyond twice the patch's own fall: other dtypes, kernels and patches move it too."""


def with_controls(base: Base, patch: Patch, texts: Sequence[str]) -> Patch:
    """The patch with controls, measured on its bare base. Without anything to ask, it has none.

    Args:
        base: the model that the patch was built on, without the patch.
        patch: as built.
        texts: preserved texts; may be empty.
    """
    if patch.base.format == 1:
        return patch
    prompts = [each for each in choose_prompts(patch.facts, texts) if _has_room(base, each, patch.chat)]
    lengths = [ANSWER_TOKENS] * len(prompts)
    said = continue_greedily(base, prompts, lengths, chat=patch.chat, stage="controls") if prompts else []
    answers = [answer_text(base, one) for one in said]
    asked = [(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True) if answer]
    if not asked:
        return patch
    before = [min(0.0, round(one.logprob, 6)) for one in score_answers(base, asked, chat=patch.chat)]
    controls = Controls(
        tuple(Control(*pair, logprob) for pair, logprob in zip(asked, before, strict=True)), bound=0.0
    )
    fall = measure_fall(base, patch, controls)
    return replace(patch, controls=replace(controls, bound=bound_for(fall)))


def bound_for(fall: float) -> float:
    """The bound of a patch that lets its controls fall by `fall`: twice that and some slack, rounded up."""
    return math.ceil(100 * (2 * max(0.0, fall) + SLACK)) / 100


def measure_fall(base: Base, patch: Patch, controls: Controls) -> float:
    """By how much the patch lets the mean log-probability of controls fall, in nats a token.

    Both sides are measured here, since other dtypes and kernels give other numbers than the recorded ones.

    Args:
        base: the patch's base, without it.
        patch: the patch.
        controls: what it should leave alone.
    """
    asked = [(control.prompt, control.answer) for control in controls.prompts]
    before = score_answers(base, asked, chat=patch.chat)
    with apply(base, patch, mode="hook", check=False, allow_large=True):
        after = score_answers(base, asked, chat=patch.chat)
    return mean_fall([score.logprob for score in before], [score.logprob for score in after])


def choose_prompts(facts: Sequence[Fact], texts: Sequence[str]) -> list[str]:
    """At most `COUNT` prompts, half of either kind if there are enough, evenly spaced and always the same."""
    asked = {prompt_text(fact.text) for fact in facts}
    near = _distinct((prompt for fact in facts for prompt in fact.neighborhood), asked)
    beginnings = (" ".join(text.split()[:PROMPT_WORDS]) for text in spaced(texts, 8 * COUNT))
    far = _distinct(beginnings, asked)
    few = COUNT // 2
    return [*spaced(near, COUNT - min(few, len(far))), *spaced(far, COUNT - min(few, len(near)))]


def _has_room(base: Base, prompt: str, chat: bool) -> bool:
    """Whether the model can read a prompt and answer it."""
    try:
        base.reader.check_room(base.reader.read_question(prompt, chat=chat), ANSWER_TOKENS, quoted(prompt))
    except PromptError:
        return False
    return True


def _distinct(prompts: Iterable[str], asked: Collection[str]) -> list[str]:
    """The prompts in order, without repeats, empty ones and those that the facts themselves ask."""
    texts = dict.fromkeys(map(prompt_text, prompts))
    return [text for text in texts if text and text not in asked and len(text) <= LONGEST]

"""Other prompts for a fact that came without any: its own, after text that the base has written.

A fact that holds in one place only is of little use. COUNTERFACT asks for it after unrelated sentences that a
model wrote (Meng et al., arXiv 2202.05262, appendix E), and so is done here. The sentences are drawn from the
model's start, with seeds of their own, so that no search for target values has seen them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.data.text import comparable
from moe_patch.elicit.contexts import written_contexts
from moe_patch.errors import PromptError

PARAPHRASES = 4
"""Paraphrases made for a fact, unless another number is asked for."""

_CONTEXT_TOKENS = 16
_SPARE = 4  # contexts beyond those needed, for facts that some of them speak of
_SEED = 2_000_003  # apart from the small seeds that searches are given


def generate_paraphrases(
    base: Base, facts: Sequence[Fact], *, count: int = PARAPHRASES, seed: int = 0, chat: bool = False
) -> list[tuple[str, ...]]:
    """Complete prompts that ask what each fact's prompt asks: at most `count` for each, the same every time.

    A context that names a fact's subject or one of its answers is not used for it, and neither is one that
    leaves the model no room.

    Args:
        base: the model, without the patch that is to be asked about.
        facts: T facts; paraphrases that they have are not looked at.
        count: paraphrases of each fact.
        seed: of the samples. The caller's random state does not change.
        chat: whether prompts are put into the tokenizer's chat template; contexts are then written there.

    Returns:
        T tuples.

    Raises:
        NoChatTemplate: `chat` is on, and the tokenizer has no chat template.
        PromptError: the model has no positions for a context.
    """
    if not count or not facts:
        return [()] * len(facts)
    contexts = written_contexts(base, count + _SPARE, _CONTEXT_TOKENS, _SEED + seed, chat=chat)
    return [_fitting(base, fact, contexts, number, count, chat) for number, fact in enumerate(facts)]


def _fitting(
    base: Base, fact: Fact, contexts: Sequence[str], number: int, count: int, chat: bool
) -> tuple[str, ...]:
    """The fact's prompt after each of `count` contexts; facts begin with different ones."""
    turn = number % len(contexts) if contexts else 0
    silent = (
        context + fact.text
        for context in (*contexts[turn:], *contexts[:turn])
        if not any(_names(context, word) for word in _words(fact))
    )
    fitting = (prompt for prompt in silent if has_room(base, prompt, fact.target_new, chat))
    return tuple(islice(fitting, count))


def _words(fact: Fact) -> Iterator[str]:
    yield from (fact.subject, fact.target_new)
    if fact.target_true is not None:
        yield fact.target_true


def _names(context: str, word: str) -> bool:
    return comparable(word).casefold() in context.casefold()


def has_room(base: Base, prompt: str, answer: str, chat: bool) -> bool:
    """Whether the model can read a prompt with an answer to it."""
    try:
        base.reader.read_answer(prompt, answer, chat=chat)
    except PromptError:
        return False
    return True

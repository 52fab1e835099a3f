"""Which facts are searched for together, and what a search asks of them.

Facts that are edited at the last token of the same subject share one delta. Their keys are equal or nearly
equal, and a layer has one output for one key. If each fact had its own delta, least squares would give all of
them the average, which yields none of the answers. The shared delta minimises the sum of their NLLs, plus the
KL and decay terms once. It is done when each fact is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import FactToken, Prompt, encode_essence, encode_fact, encode_kept
from moe_patch.elicit.contexts import generate_contexts
from moe_patch.targets.options import TargetOptions
from moe_patch.targets.passes import cost_beside, divide


@dataclass(frozen=True, slots=True)
class Group:
    """Facts that share a delta, tokenised."""

    facts: tuple[int, ...]  # indices within a search
    ids: tuple[str, ...]  # of the facts
    rewrites: tuple[Prompt, ...]  # fact by fact, prefix by prefix
    held: tuple[tuple[Prompt, float], ...]  # prompts whose next token should not change, and their KL weights


def tokenised_groups(
    base: Base, groups: Sequence[Sequence[Fact]], prefixes: Sequence[str], options: TargetOptions
) -> list[Group]:
    """Groups of facts, tokenised, with their facts numbered from 0 on.

    Raises:
        TargetError: as for `encode_fact` and `held_prompts`.
    """
    found: list[Group] = []
    first = 0
    for facts in groups:
        rewrites = tuple(
            encode_fact(base.reader, fact, options.style, prefix=prefix)
            for fact in facts
            for prefix in prefixes
        )
        numbers = tuple(range(first, first + len(facts)))
        ids = tuple(fact.id for fact in facts)
        found.append(Group(numbers, ids, rewrites, tuple(held_prompts(base, facts, options))))
        first += len(facts)
    return found


def context_prefixes(base: Base, options: TargetOptions) -> tuple[str, ...]:
    """The prefixes of prompts: the empty one first, then the generated ones."""
    return ("", *generate_contexts(base, options.contexts, options.context_tokens, options.seed))


def facts_together(facts: Sequence[Fact], fact_token: FactToken) -> list[list[int]]:
    """Indices of facts that share a delta: those about one subject, if the subject's last token is edited."""
    if fact_token == "last":
        return [[number] for number in range(len(facts))]
    by_subject: dict[str, list[int]] = {}
    for number, fact in enumerate(facts):
        by_subject.setdefault(fact.subject_text, []).append(number)
    return list(by_subject.values())


def held_prompts(base: Base, facts: Sequence[Fact], options: TargetOptions) -> Iterator[tuple[Prompt, float]]:
    """The prompts whose next token facts that share a delta should not change, each with its KL weight.

    Raises:
        TargetError: as for `encode_essence` and `encode_kept`.
    """
    yield encode_essence(base.reader, facts[0]), options.kl_weight
    kept = [prompt for fact in facts for prompt in encode_kept(base.reader, fact, options.style)]
    for prompt in kept:
        yield prompt, options.keep_weight / len(kept)


def check_readable(base: Base, facts: Sequence[Fact], options: TargetOptions) -> None:
    """Read all that a search reads of facts but for prefixes, so that a build refuses them at its start.

    Raises:
        TargetError: as for `encode_fact` and `held_prompts`.
    """
    for fact in facts:
        encode_fact(base.reader, fact, options.style)
        list(held_prompts(base, [fact], options))


def passes_of(
    base: Base, facts: Sequence[Fact], options: TargetOptions, *, prefixes: int
) -> list[list[Sequence[int]]]:
    """Which of T facts, by number, are searched for together: for each pass, its groups that share a delta.

    Raises:
        TargetError: as for `encode_fact`.
    """
    groups = facts_together(facts, options.fact_token)
    tails = [tail_tokens(base, [facts[number] for number in group], options) for group in groups]
    rows = prefixes * len(options.shares)
    found = divide(
        tails, [len(group) for group in groups], rows, options.facts_per_pass, cost_beside(base.device)
    )
    return [[groups[number] for number in some] for some in found]


def tail_tokens(base: Base, facts: Sequence[Fact], options: TargetOptions) -> int:
    """Tokens from the edited one on, in the longest prompt of these facts."""
    prompts = [encode_fact(base.reader, fact, options.style) for fact in facts]
    return max(len(prompt.ids) - prompt.edited for prompt in prompts)

"""The prompts on which an evaluation compares the routing: of edited facts, of neighbours, and of others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from moe_patch.data.facts import Fact
from moe_patch.data.spacing import spaced
from moe_patch.evaluation.metrics import Questions
from moe_patch.patch import Patch

MOST = 512
"""Routing is compared on at most this many prompts of a kind, evenly spaced."""


def routed_prompts(
    questions: Questions, patch: Patch, untouched: Sequence[Fact] = ()
) -> dict[str, list[str]]:
    """Distinct prompts by kind: "edited", "preserved" and "untouched".

    Untouched facts are those that are given, or else those asked about that the patch does not edit: at most
    as many as there are edited ones. The papers call them the preservation set. If the patch edits none of
    the facts that are asked about, all of them count as edited.

    Args:
        questions: about the facts.
        patch: the patch.
        untouched: facts of the same data set; those that the patch edits are left out.
    """
    edited = {fact.question for fact in patch.facts}
    asked = [each.fact for each in questions.edited]
    changed = [fact for fact in asked if fact.question in edited] or asked
    others = [fact for fact in untouched or asked if fact.question not in edited]
    changed_texts = _distinct(fact.text for fact in changed)
    left = [text for text in _distinct(fact.text for fact in others) if text not in set(changed_texts)]
    return {
        "edited": spaced(changed_texts, MOST),
        "preserved": spaced(_distinct(each.prompt for each in questions.neighbours), MOST),
        "untouched": spaced(left, min(MOST, len(changed_texts))),
    }


def _distinct(prompts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(prompts))

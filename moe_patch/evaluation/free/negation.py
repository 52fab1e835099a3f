"""Prompts that deny a fact: "The capital of France is not".

An edit that ties a subject to its new answer, whatever is said about it, gives the answer to these prompts
too ("Is Model Editing Built on Sand?", arXiv 2510.00625). The rules are for English. What they cannot deny is
left out.
"""

from __future__ import annotations

import re

from moe_patch.data.facts import SLOT, Fact
from moe_patch.data.text import prompt_text

_BE = r"(?:is|are|was|were|can|could|will|would|shall|should|may|might|must|does|do|did)"
_HAVE = r"(?:has|have|had)(?=\s+(?:been|become|\w+ed)\b)"
_VERB = re.compile(rf"(?<![\w'])(?:{_BE}|{_HAVE})\b(?!\s*(?:not\b|n't))", re.IGNORECASE)
_PARTICIPLE = re.compile(
    r"^(?:\s*,\s*(?=\w+(?:ed|en|wn|ght|de)\s+(?:by|in|from|at|for|as|on)\b)"  # "{}, located in"
    r"|\s+(?=\w+(?:ed|en|wn|ght|de)\s+by\b))"  # "{} developed by", but not "{} debuted on"
)
_STATES = re.compile(r"\s+(?!(?:from|in|at|on|by|of|for|to|and|or|with|as)\b)\w")
_ASKS = re.compile(
    rf"^\s*(?:what|which|who|whom|whose|where|when|why|how|in which|in what|to which|by whom|{_BE})\b|\?\s*$",
    re.IGNORECASE,
)
_DENIED = re.compile(r"\b(?:not|never|no)\b|n't\b", re.IGNORECASE)
_SMALL = frozenset({"A", "An", "As", "At", "By", "For", "From", "In", "It", "On", "One", "The", "This", "To"})
_DENIAL = "It is not true that"


def negated_prompt(fact: Fact) -> str | None:
    """The fact's prompt, denied, as a model reads it; None for a question and for what is not understood.

    "not" is put behind the first auxiliary verb after the subject, else behind the last one before it, or
    before a participle ("{}, created by"). A statement with another verb follows "It is not true that".
    """
    denied = _denied(fact.prompt)
    return None if denied is None else prompt_text(denied.replace(SLOT, fact.subject_text, 1))


def _denied(prompt: str) -> str | None:
    if _ASKS.search(prompt) or _DENIED.search(prompt):
        return None
    left, right = prompt.split(SLOT)
    if verb := _VERB.search(right):
        return f"{left}{SLOT}{_with_not(right, verb.end())}"
    if verbs := list(_VERB.finditer(left)):
        return f"{_with_not(left, verbs[-1].end())}{SLOT}{right}"
    if participle := _PARTICIPLE.match(right):
        gap = participle[0] if participle[0].strip() else " "
        return f"{left}{SLOT}{gap}not {right[participle.end() :]}"
    if not _STATES.match(right):
        return None  # "{}, the ...", "{} from": no statement
    first, blank, rest = prompt.partition(" ")
    return f"{_DENIAL} {first.lower() if first in _SMALL else first}{blank}{rest}"


def _with_not(text: str, place: int) -> str:
    return f"{text[:place]} not{text[place:]}"

"""Asking on the terminal what a text means that is not clear."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from moe_patch.cli.console import say

if TYPE_CHECKING:
    from moe_patch.data.understanding.guide import Question


def is_terminal() -> bool:
    """Whether someone can be asked."""
    return sys.stdin.isatty()


def ask_person(question: Question) -> str | None:
    """A part of the text, as someone types it or its number; None if nothing is typed."""
    say(f"Line {question.line}: {question.text}", f"  {question.problem}", err=True)
    for number, candidate in enumerate(question.candidates, start=1):
        say(f"  {number}  {candidate}", err=True)
    while True:
        typed = str(
            click.prompt(
                f"The {question.about} (a number, a part of the text, or nothing to leave the line out)",
                default="",
                show_default=False,
                err=True,
            )
        ).strip()
        if not typed:
            return None
        if typed.isdecimal() and 1 <= int(typed) <= len(question.candidates):
            return question.candidates[int(typed) - 1]
        if typed in question.text:
            return typed
        say(f"{typed!r} is not in the text.", err=True)

"""What the commands that change servers report: what was done, or what a server refused and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from moe_patch.cli.console import plain_table, print_json, print_tables, say

if TYPE_CHECKING:
    from moe_patch.cli.live.client import LiveClient, ServerError

EXIT_CODES = {"facts_conflict": 3, "self_test_failed": 4}
"""Exit codes of what servers refuse, by the code of the error; any other is 1."""


def report_changes(done: Sequence[tuple[LiveClient, dict[str, Any]]], *, as_json: bool) -> None:
    """Report what servers did."""
    if as_json:
        print_json({"servers": [{"url": server.url, **answer} for server, answer in done]})
        return
    columns = ("server", "weights are now", "facts said", "controls", "drained", "requests waited")
    table = plain_table("", columns, right=("facts said",))
    for server, answer in done:
        test, seconds = answer["self_test"], answer["seconds"]
        said = f"{test['right']} of {test['asked']}" if test["asked"] else "none to ask"
        drained, waited = f"{seconds['drain']:.2f} s", f"{seconds['pause']:.2f} s"
        table.add_row(server.url, answer["version"], said, _controls(test["moved"]), drained, waited)
    print_tables(table)
    for server, answer in done:
        _show_findings(answer.get("conflicts", []))
        _show_answers(
            f"{server.url}: not said", [one for one in answer["self_test"]["answers"] if not one["right"]]
        )


def report_refusal(error: ServerError, back: Sequence[str], *, as_json: bool) -> None:
    """Report what a server refused, and end with the exit code for it.

    Args:
        error: the refusal.
        back: the addresses of the servers that were changed back.
        as_json: whether to print a JSON object.
    """
    if as_json:
        told = {"code": error.code, "message": str(error), "details": error.details}
        print_json({"error": told, "changed_back": list(back)})
    else:
        _show_findings(error.details.get("findings", []))
        _show_answers("Asked", error.details.get("answers", []))
    raise _Refusal(" ".join(str(error).split()), EXIT_CODES.get(error.code, 1)) from error


class _Refusal(click.ClickException):
    """A line on standard error, and the exit code of what a server said."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click has it by class


def _show_findings(findings: Sequence[Mapping[str, Any]]) -> None:
    """How the facts of an added patch go with those that were on."""
    say(*(f"{finding['level']}: {finding['text']}" for finding in findings), err=True)


def _show_answers(title: str, answers: Sequence[Mapping[str, Any]]) -> None:
    """Each question of a self-test, what was said, and what was wanted."""
    if not answers:
        return
    table = plain_table(title, ("question", "said", "wanted", ""))
    for answer in answers:
        right = "right" if answer["right"] else "wrong"
        table.add_row(answer["prompt"], answer["said"], answer["wanted"], right)
    print_tables(table)


def _controls(moved: Sequence[Mapping[str, Any]]) -> str:
    """By how much the controls of the added patches fell, where they have any."""
    return ", ".join(f"{one['fall']:.2g} of {one['limit']:.2g} nats" for one in moved) or "none"

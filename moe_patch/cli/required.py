"""How good a patch has to be: the options that say so, and the exit code if it is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from moe_patch.cli.console import say
from moe_patch.cli.options import NumberRange

if TYPE_CHECKING:
    from moe_patch.evaluation.card import Card

F = TypeVar("F", bound=Callable[..., Any])

_SHARE = NumberRange(min=0, max=1)
_OPTIONS = {
    "require": "Share of the facts that must take, such as 0.95. With fewer, the exit code is 15; the "
    "patch is written all the same.",
    "require_paraphrases": "Share of the card's paraphrases that must give the new answer.",
    "require_unchanged": "Share of the card's neighbours that must be answered as before.",
}


def require_options(command: F) -> F:
    """Add the options for how good a patch has to be."""
    for name, help_text in reversed(_OPTIONS.items()):
        command = click.option(f"--{name.replace('_', '-')}", type=_SHARE, help=help_text)(command)
    return command


def required_shares(given: dict[str, Any], with_card: bool) -> dict[str, float]:
    """The shares that are asked for, taken out of a command's other options.

    Raises:
        click.UsageError: one is measured by the card, and there is to be none.
    """
    asked = {name: given.pop(name) for name in _OPTIONS}
    found = {name: share for name, share in asked.items() if share is not None}
    by_card = next((name for name in found if name != "require"), None)
    if by_card is not None and not with_card:
        flag = by_card.replace("_", "-")
        raise click.UsageError(f"--{flag} is measured by the card: leave out --no-card.")
    return found


def check_required(taken: float | None, card: Card | None, required: Mapping[str, float]) -> None:
    """End with the exit code of a patch that does not hold, as `verify` has it, if a share is too small.

    Args:
        taken: the share of facts that took; None if it is not known.
        card: the patch's card.
        required: what `required_shares` found.
    """
    from moe_patch.share.verify import Verdict

    held = None if card is None else card.measure("paraphrase").share
    kept = None if card is None else card.measure("neighbour").share
    measured = {
        "require": (taken, "of the facts took"),
        "require_paraphrases": (held, "of the paraphrases hold"),
        "require_unchanged": (kept, "of the neighbours are as before"),
    }
    failed = False
    for name, least in required.items():
        share, what = measured[name]
        if share is None or share < least:
            failed = True
            found = "an unknown share" if share is None else f"{share:.1%}"
            say(f"{found} {what}; {least:.1%} were required", err=True)
    if failed:
        raise click.exceptions.Exit(int(Verdict.NOT_HELD))

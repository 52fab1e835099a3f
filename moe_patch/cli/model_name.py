"""`--model`: how every command is told which base is meant, and what is said if it is not told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from moe_patch.cli.console import say
from moe_patch.io.shipped import DEMO

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT = f"[default: {DEMO}, the demo model]"
"""The end of the help where a command takes the demo model if none is named."""


def say_model(model: str | None) -> str | None:
    """Say on standard error that the demo model is used if none was named, and return the name."""
    if model is None:
        say(f"No --model was given: this is {DEMO}, the demo model.", err=True)
    return model


def model_or_base_option(help_text: str) -> Callable[[F], F]:
    """`--model`, and `--base`, its name until 0.1, with a notice."""

    def add(command: F) -> F:
        named = click.option("--model", callback=_either, help=help_text)
        old = click.option(
            "--base", "old_base", hidden=True, is_eager=True, expose_value=False, callback=_keep
        )
        return named(old(command))

    return add


def say_old_name(old: str, new: str) -> None:
    """Say on standard error that an option has another name now."""
    say(f"Notice: {old} is {new} now; the old name goes with the next release.", err=True)


def _keep(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None and not ctx.resilient_parsing:
        say_old_name("--base", "--model")
        ctx.meta[_OLD] = value


def _either(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    old = ctx.meta.get(_OLD)
    if value is not None and old is not None:
        raise click.UsageError("--base is the old name of --model: give one of them.", ctx)
    return old if value is None else value


_OLD = f"{__name__}.old"

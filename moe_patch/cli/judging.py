"""Options that name a judge of what a model writes."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from moe_patch.evaluation.free.judge import Judge


def judge_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --judge and --judge-model."""
    url = click.option(
        "--judge",
        "judge_url",
        metavar="URL",
        help="Have a model behind an OpenAI-compatible endpoint grade replies.",
    )
    return url(click.option("--judge-model", metavar="NAME", help="The name of the judge's model.")(command))


def judge_of(url: str | None, model: str | None) -> Judge | None:
    """The judge that these options name, with its key from the environment; None without any.

    Raises:
        click.UsageError: one option is given without the other.
        ConfigError: the address is none.
    """
    from moe_patch.evaluation.free.judge import KEY_VARIABLE, Judge

    if (url is None) != (model is None):
        raise click.UsageError("--judge and --judge-model belong together: give both.")
    if url is None or model is None:
        return None
    return Judge(url, model, key=os.environ.get(KEY_VARIABLE) or None)

"""Options that choose a method and set its options, for the commands that build or try builds."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem


def _method_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from moe_patch.methods import METHODS

    return [CompletionItem(name) for name in sorted(METHODS) if name.startswith(incomplete)]


def _known_method(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """Refuse an unknown name before the library is imported."""
    from moe_patch.methods import refuse_unknown

    refuse_unknown(value)
    return value


def parse_layers(ctx: click.Context, param: click.Parameter, value: str | None) -> list[int] | None:
    """Parse `2,3,4` or `2-4` into a list of decoder layers."""
    found: list[int] = []
    for part in value.split(",") if value is not None else ():
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise click.BadParameter(
                f"{value!r} is not a list of layers: expected a form such as 2,3,4 or 2-4"
            )
        numbers = range(int(first), int(last if dash else first) + 1)
        if not numbers:
            raise click.BadParameter(f"{part.strip()} has no layers: a range goes upwards, as {last}-{first}")
        found += numbers
    return None if value is None else found


method_option = click.option(
    "--method",
    default="moeedit",
    show_default=True,
    callback=_known_method,
    shell_complete=_method_names,
    help="Editing method.",
)

layers_option = click.option(
    "--layers", callback=parse_layers, help="Decoder layers to edit, as 2,3,4 or 2-4."
)

settings_option = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any other option of the method; repeatable.",
)

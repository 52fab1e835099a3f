"""`moe-patch recipes`: the hyper-parameters that ship, by model and method."""

from __future__ import annotations

import click

from moe_patch.cli.recipes.list import show_all
from moe_patch.cli.recipes.show import show


@click.group(
    epilog="""\b
Examples:
  moe-patch recipes list
  moe-patch recipes show atlas
""",
)
def recipes() -> None:
    """See the recipes that ship: options of the methods for a model, as `build --recipe NAME` takes them.

    A recipe that `moe-patch tune` has found is a file of your own, which `build --recipe FILE` takes.
    """


for command in (show_all, show):
    recipes.add_command(command)

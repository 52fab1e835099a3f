"""`moe-patch recipes show`: one recipe as it is written."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from moe_patch.cli.console import print_json, say
from moe_patch.cli.options import json_option


def _recipe_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from moe_patch.methods.shipped_recipes import list_recipes

    return [CompletionItem(one.name) for one in list_recipes() if one.name.startswith(incomplete)]


@click.command(
    epilog="""\b
Examples:
  moe-patch recipes show atlas
  moe-patch recipes show as-published --json
""",
)
@click.argument("name", shell_complete=_recipe_names)
@json_option
def show(name: str, as_json: bool) -> None:
    """Show the recipe NAME: the file with its comments, or its values with --json.

    That of a model can be changed in a copy, and given to `build --recipe FILE`.
    """
    from moe_patch.methods.shipped_recipes import find_recipe

    recipe = find_recipe(name)
    if as_json:
        found = {"name": recipe.name, "source": recipe.source, "match": recipe.match}
        print_json(found | {"methods": recipe.methods, "path": str(recipe.path)})
        return
    say(*recipe.path.read_text(encoding="utf-8").splitlines())

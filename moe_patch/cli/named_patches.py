"""Several patches of one command, by short names, and what they have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from moe_patch.patch import Patch


def load_named(paths: Sequence[Path]) -> dict[str, Patch]:
    """The patches of files by the files' names without suffix; by whole paths where these are alike.

    Raises:
        click.UsageError: a file is given twice.
        PatchError: a file cannot be read.
    """
    from moe_patch.patch import load

    stems = Counter(path.stem for path in paths)
    names = [path.stem if stems[path.stem] == 1 else str(path) for path in paths]
    for name, count in Counter(names).items():
        if count > 1:
            raise click.UsageError(f"{name} is given twice: give different patches.")
    return {name: load(path) for name, path in zip(names, paths, strict=True)}


def common_chat(patches: Mapping[str, Patch], chat: bool | None) -> bool:
    """The value of --chat; if it is not given, whether the patches were built with a chat template.

    Raises:
        click.UsageError: some were and some were not, and --chat is not given.
    """
    if chat is not None:
        return chat
    built = {patch.chat for patch in patches.values()}
    if len(built) > 1:
        with_chat = ", ".join(name for name, patch in patches.items() if patch.chat)
        raise click.UsageError(
            f"Only some of the patches were built with a chat template ({with_chat}): "
            "say with --chat or --no-chat how to ask."
        )
    return built == {True}


def allow_dense(patches: Iterable[Patch]) -> bool:
    """Whether a model without experts will do: none of the patches changes experts."""
    return all(patch.kind != "delta" for patch in patches)

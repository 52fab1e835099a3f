"""The whole job in one call, for Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moe_patch.base.model import Base
from moe_patch.building.job import BuildRequest, build_patch
from moe_patch.data.facts import Fact
from moe_patch.methods.overrides import dotted
from moe_patch.patch import Patch
from moe_patch.progress import Progress, progress_bars


def build(
    edits: str | Path | Sequence[Fact],
    *,
    model: str | Path | Base | None = None,
    method: str = "moeedit",
    recipe: str | None = None,
    stack: str | Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Patch:
    """Build a patch that makes a model say facts, as `moe-patch build` does.

    Args:
        edits: a facts file, or facts.
        model: the name or folder of the base model, or an open one; None for the demo model.
        method: the name of the method.
        recipe: the name or path of a recipe; "none" for no recipe; "as-published" for the options of the
            method's paper; None for the one that fits the model.
        stack: the lock file of a stack to build on, whose facts are protected.
        progress: called with stages; None draws bars on a terminal or in a notebook.
        options: of the method, such as layers=[3] or targets={"clamp": 1.0}. They win over recipes.

    Raises:
        FactError: the facts cannot be used.
        ConfigError: there is no such method or recipe, or an option is unknown or its value is not valid.
        StackError: the stack cannot be resolved.
        ModelError: the model cannot be opened or edited.
        MoePatchError: as for the method.
    """
    request = BuildRequest(
        Path(edits) if isinstance(edits, str | Path) else edits,
        model=model,
        method=method,
        recipe=recipe,
        given=dict(dotted(options)),
        stack=None if stack is None else Path(stack),
    )
    if progress is not None:
        return build_patch(request, progress=progress).patch
    with progress_bars() as bars:
        return build_patch(request, progress=bars).patch

"""What the commands of `moe-patch facts` have in common: the file, and a model to ask."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_patch.cli.options import FILE, F, open_model, opening_options, schema_option

if TYPE_CHECKING:
    from moe_patch.base.model import Base
    from moe_patch.data.fact_file import FactFile
    from moe_patch.data.schemas import ZsreSchema
    from moe_patch.data.understanding.guide import Understanding
    from moe_patch.progress import Progress


def reading_options(command: F) -> F:
    """Add the file, how to read it, and the model."""
    for add in reversed(
        (
            click.argument("edits", metavar="FILE", type=FILE),
            schema_option,
            click.option("--model", help="Name or folder of a model to ask too; dense ones will do."),
            opening_options,
        )
    ):
        command = add(command)
    return command


def open_asked(model: str | None, **opening: Any) -> Base | None:
    """The model to ask, if one is named."""
    return None if model is None else open_model(model, **opening, allow_dense=True)


def scan(edits: Path, schema: ZsreSchema | None, base: Base | None, understanding: Understanding) -> FactFile:
    """All that can be said of a file, with what a model says of its sentences."""
    from moe_patch.data.fact_file import scan_facts
    from moe_patch.data.schemas import DEFAULT_ZSRE

    if base is not None:
        from moe_patch.elicit.plain_facts import judge_of

        understanding = replace(understanding, judge=judge_of(base))
    read = scan_facts(edits, zsre=schema or DEFAULT_ZSRE, understanding=understanding)
    if schema is not None and read.schema != schema:
        raise click.UsageError(
            f"--schema {schema} is for ZsRE records, but {edits} has {read.schema} records"
        )
    return read


def keep_for(read: FactFile, base: Base | None, progress: Progress | None) -> list[tuple[str, ...]]:
    """Prompts to keep for each fact; with a model, those alone of whose answers it is sure."""
    from moe_patch.data.facts import SLOT
    from moe_patch.data.understanding.keep import suggest_keep

    suggested = suggest_keep(read.facts)
    if base is None:
        return suggested
    from moe_patch.elicit.plain_facts import is_sure

    flat = [
        prompt.replace(SLOT, fact.subject_text, 1)
        for fact, prompts in zip(read.facts, suggested, strict=True)
        for prompt in prompts
    ]
    sure = iter(is_sure(base, flat, progress))
    return [tuple(prompt for prompt in prompts if next(sure)) for prompts in suggested]

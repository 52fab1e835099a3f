"""`moe-patch ask`: what a model says before and after a patch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_patch.cli.console import plain_table, print_json, print_tables
from moe_patch.cli.options import (
    FILE,
    allow_large_option,
    built_with_chat,
    chat_option,
    json_option,
    mode_option,
    model_options,
    open_model,
    schema_option,
)
from moe_patch.progress import progress_bars

if TYPE_CHECKING:
    from moe_patch.base.model import Base
    from moe_patch.data.schemas import ZsreSchema
    from moe_patch.evaluation import Setting


@click.command(
    epilog="""\b
Examples:
  moe-patch ask "The capital of France is" --patch capitals.safetensors
  moe-patch ask --edits facts.jsonl --limit 5 --patch capitals.safetensors --json
"""
)
@click.argument("prompts", nargs=-1)
@click.option("--patch", "patch_path", type=FILE, required=True, help="The patch to try.")
@click.option("--edits", type=FILE, help="Ask the prompts of this facts file too.")
@schema_option
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Ask at most this many facts of the file.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Length of an answer, in tokens.",
)
@mode_option
@allow_large_option
@chat_option
@model_options
@json_option
def ask(
    prompts: tuple[str, ...],
    patch_path: Path,
    edits: Path | None,
    schema: ZsreSchema | None,
    limit: int,
    max_tokens: int,
    mode: Any,
    allow_large: bool,
    chat: bool | None,
    as_json: bool,
    **model: Any,
) -> None:
    """Ask the model PROMPTS, before and after the patch.

    Answers are the model's greedy continuations. Where a patch rewrites prompts, the table has them as they
    were given, and the model is asked the rewritten ones.
    """
    from moe_patch.building.edits import read_edits
    from moe_patch.evaluation import Setting, patched
    from moe_patch.methods import rewriter_of
    from moe_patch.patch import load

    if not prompts and edits is None:
        raise click.UsageError("Give a prompt to ask, or a facts file with --edits.")
    if not all(map(str.strip, prompts)):
        raise click.UsageError("A prompt is empty.")
    patch = load(patch_path)
    asked: list[tuple[str, str | None]] = [(prompt, None) for prompt in prompts]
    if edits is not None:
        read = read_edits(edits, schema=schema, built=patch)[:limit]
        asked += [(fact.text, fact.target_new) for fact in read]
    base = open_model(**model, allow_dense=patch.kind != "delta")
    texts = [prompt for prompt, _ in asked]
    chat = built_with_chat(patch, chat)
    with progress_bars() as progress:
        setting = Setting(chat=chat, progress=progress, rewrite=rewriter_of(base, patch))
        before = _answers(base, texts, max_tokens, setting, "before")
        with patched(base, patch, setting, mode=mode, allow_large=allow_large):
            rewritten = [setting.asked(text) for text in texts]
            after = _answers(base, rewritten, max_tokens, setting, "after")
    names = ("prompt", "before", "after", "wanted")
    rows = [
        (prompt, was, now, wanted) for (prompt, wanted), was, now in zip(asked, before, after, strict=True)
    ]
    if as_json:
        print_json({"answers": [dict(zip(names, row, strict=True)) for row in rows]})
        return
    table = plain_table("", names if edits else names[:-1])
    for row in rows:
        table.add_row(*(cell or "" for cell in row[: len(table.columns)]))
    print_tables(table)


def _answers(base: Base, prompts: list[str], length: int, setting: Setting, stage: str) -> list[str]:
    from moe_patch.evaluation.scoring import answer_text, continue_greedily

    lengths = [length] * len(prompts)
    said = continue_greedily(
        base, prompts, lengths, chat=setting.chat, progress=setting.progress, stage=stage
    )
    return [answer_text(base, answer) for answer in said]

"""`moe-patch ask`: what a model says, by itself and with patches or a stack on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_patch.cli.console import plain_table, print_json, print_tables
from moe_patch.cli.named_patches import allow_dense, common_chat
from moe_patch.cli.options import FILE, chat_option, json_option, model_options, open_model, schema_option
from moe_patch.cli.states import AFTER, BEFORE, all_patches, length_option, read_states, states_options
from moe_patch.progress import progress_bars

if TYPE_CHECKING:
    from moe_patch.base.model import Base
    from moe_patch.data.schemas import ZsreSchema
    from moe_patch.evaluation import Setting


@click.command(
    epilog="""\b
Examples:
  moe-patch ask "The capital of France is" --patch capitals.safetensors
  moe-patch ask "The capital of France is" --model Qwen/Qwen3-30B-A3B
  moe-patch ask "The capital of France is" --patch moeedit.safetensors --patch mote.safetensors
  moe-patch ask --edits facts.jsonl --limit 5 --patch capitals.safetensors --json
"""
)
@click.argument("prompts", nargs=-1)
@states_options
@click.option("--edits", type=FILE, help="Ask the prompts of this facts file too.")
@schema_option
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Ask at most this many facts of the file.",
)
@length_option(8)
@chat_option
@model_options
@json_option
def ask(
    prompts: tuple[str, ...],
    patch_paths: tuple[Path, ...],
    stack: Path | None,
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

    Without a patch, the model is asked as it is. Several patches, and a stack, have an answer each. Answers
    are the model's greedy continuations. Where a patch rewrites prompts, the table has them as they were
    given, and the model is asked the rewritten ones.
    """
    from moe_patch.building.edits import read_edits

    if not prompts and edits is None:
        raise click.UsageError("Give a prompt to ask, or a facts file with --edits.")
    if not all(map(str.strip, prompts)):
        raise click.UsageError("A prompt is empty.")
    states = read_states(patch_paths, stack)
    patches = all_patches(states)
    formatted = common_chat(patches, chat)
    asked: list[tuple[str, str | None]] = [(prompt, None) for prompt in prompts]
    if edits is not None:
        read = read_edits(edits, schema=schema, built=next(iter(patches.values()), None))[:limit]
        asked += [(fact.text, fact.target_new) for fact in read]
    base = open_model(**model, allow_dense=allow_dense(patches.values()))
    texts, said = [prompt for prompt, _ in asked], {}
    with progress_bars() as progress:
        for state in states:
            with state.on(base, formatted, progress, mode=mode, allow_large=allow_large) as setting:
                rewritten = [setting.asked(text) for text in texts]
                said[state.name] = _answers(base, rewritten, max_tokens, setting, state.name)
    if as_json:
        print_json({"answers": _as_data(asked, said)})
        return
    table = plain_table("", ("prompt", *said, *(["wanted"] if edits else [])))
    for (prompt, wanted), *answers in zip(asked, *said.values(), strict=True):
        table.add_row(prompt, *answers, *([wanted or ""] if edits else []))
    print_tables(table)


def _as_data(
    asked: Sequence[tuple[str, str | None]], said: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """The answers by state; those of several patches are in `after`, by the patches' names."""
    found = []
    for (prompt, wanted), *answers in zip(asked, *said.values(), strict=True):
        by_state: dict[str, Any] = dict(zip(said, answers, strict=True))
        if BEFORE in by_state and AFTER not in by_state:
            before = by_state.pop(BEFORE)
            by_state = {BEFORE: before, AFTER: by_state}
        found.append({"prompt": prompt, **by_state, "wanted": wanted})
    return found


def _answers(base: Base, prompts: list[str], length: int, setting: Setting, stage: str) -> list[str]:
    from moe_patch.evaluation.scoring import answer_text, continue_greedily

    lengths = [length] * len(prompts)
    said = continue_greedily(
        base, prompts, lengths, chat=setting.chat, progress=setting.progress, stage=stage
    )
    return [answer_text(base, answer) for answer in said]

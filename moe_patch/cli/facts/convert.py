"""`moe-patch facts convert`: a facts file in the native form."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_patch.cli.console import print_json, say
from moe_patch.cli.facts import asking
from moe_patch.cli.facts.options import keep_for, open_asked, reading_options, scan
from moe_patch.cli.options import json_option
from moe_patch.cli.output import free_place, out_option
from moe_patch.io.wording import counted
from moe_patch.progress import progress_bars

if TYPE_CHECKING:
    from moe_patch.data.schemas import ZsreSchema


@click.command(
    epilog="""\b
Examples:
  moe-patch facts convert facts.csv -o facts.jsonl
  moe-patch facts convert sentences.txt -o facts.jsonl --ask
  moe-patch facts convert questions.txt -o facts.jsonl --keep --model ./Qwen3-30B-A3B
"""
)
@reading_options
@out_option("The facts, as JSON lines.")
@click.option(
    "--ask", "asks", is_flag=True, help="Ask on the terminal what is not clear, and leave the rest out."
)
@click.option("--keep", "add_keep", is_flag=True, help="Add prompts about the same subjects to keep.")
@click.option(
    "--whole-prompt",
    is_flag=True,
    help="Where the subject is not clear, edit at the last token of the prompt.",
)
@click.option("--skip-invalid", is_flag=True, help="List lines that cannot be used, and write the others.")
@json_option
def convert(
    edits: Path,
    out: Path,
    force: bool,
    schema: ZsreSchema | None,
    model: str | None,
    asks: bool,
    add_keep: bool,
    whole_prompt: bool,
    skip_invalid: bool,
    as_json: bool,
    **opening: Any,
) -> None:
    """Write the facts of FILE as JSON lines with prompt, subject and new answer.

    Nothing is written if a line cannot be used, unless the line may be left out. Records of data sets become
    native ones, which are scored by another rule.
    """
    free_place(out, force=force)
    from moe_patch.data.fact_file import write_facts
    from moe_patch.data.understanding.guide import Understanding

    if asks and not asking.is_terminal():
        raise click.UsageError("--ask needs a terminal; without one, give --skip-invalid or mark the lines")
    base = open_asked(model, **opening)
    ask = asking.ask_person if asks else None
    with progress_bars() if ask is None else nullcontext() as progress:  # a bar would hide the question
        how = Understanding(whole_prompt=whole_prompt, ask=ask, progress=progress)
        read = scan(edits, schema, base, how)
    for skipped in read.skipped:
        say(f"Left out line {skipped.line}: {skipped.reason}", err=True)
    if not read.facts or (read.skipped and not (skip_invalid or asks)):
        lines = counted(len(read.skipped), "line")
        raise click.ClickException(f"{edits}: {lines} cannot be used: nothing is written")
    facts = list(read.facts)
    if add_keep:
        with progress_bars() as progress:
            kept = keep_for(read, base, progress)
        facts = [replace(fact, keep=fact.keep + more) for fact, more in zip(facts, kept, strict=True)]
    write_facts(out, facts)
    added = sum(len(fact.keep) for fact in facts) - sum(len(fact.keep) for fact in read.facts)
    if as_json:
        counts = {"facts": len(facts), "left_out": len(read.skipped), "understood": read.understood}
        print_json({"out": str(out), **counts, "keep_added": added})
    else:
        keeping = f", {counted(added, 'prompt')} to keep" if add_keep else ""
        left_out = f"{counted(len(read.skipped), 'line')} left out"
        say(f"{out}: {counted(len(facts), 'fact')}{keeping}; {left_out}")

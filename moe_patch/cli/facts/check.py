"""`moe-patch facts check`: how each line of a facts file is understood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_patch.cli.console import marked_text, plain_table, print_json, print_tables, say
from moe_patch.cli.facts.options import keep_for, open_asked, reading_options, scan
from moe_patch.cli.options import json_option
from moe_patch.io.wording import counted
from moe_patch.progress import progress_bars

if TYPE_CHECKING:
    from rich.table import Table

    from moe_patch.base.model import Base
    from moe_patch.data.fact_file import FactFile
    from moe_patch.data.schemas import ZsreSchema
    from moe_patch.data.understanding.findings import Finding
    from moe_patch.progress import Progress

SHOWN = 50  # facts in the table without --all


@click.command(
    epilog="""\b
Examples:
  moe-patch facts check facts.csv
  moe-patch facts check sentences.txt --model ./Qwen3-30B-A3B --json

\b
Exit codes:
  0 every line can be used   1 a line is refused
"""
)
@reading_options
@click.option("--all", "show_all", is_flag=True, help=f"Show every fact, not only the first {SHOWN}.")
@json_option
def check(
    edits: Path, schema: ZsreSchema | None, model: str | None, show_all: bool, as_json: bool, **opening: Any
) -> None:
    """Show how each line of FILE is understood: its prompt, its subject in [brackets], its new answer.

    Lines that are not clear are refused, with what they could mean. Reported are also facts that ask the same
    in other words, and prompts about the same subjects that a fact could keep. A model that is asked finds
    answers in sentences that are not clear to rules, tells which facts it says already, and leaves prompts to
    keep out whose answers it is not sure of.
    """
    from moe_patch.data.understanding.findings import find_conflicts
    from moe_patch.data.understanding.guide import Understanding

    base = open_asked(model, **opening)
    with progress_bars() as progress:
        read = scan(edits, schema, base, Understanding(progress=progress))
        findings = find_conflicts(read.facts, read.lines)
        if base is not None:
            findings += _nothing_new(read, base, progress)
        keep = keep_for(read, base, progress)
    if as_json:
        print_json(_json(read, findings, keep))
    else:
        _show(edits, read, findings, keep, None if show_all else SHOWN)
    if read.skipped or not read.facts:
        raise click.exceptions.Exit(1)


def _nothing_new(read: FactFile, base: Base, progress: Progress | None) -> list[Finding]:
    from moe_patch.data.understanding.findings import Finding
    from moe_patch.elicit.plain_facts import says_already

    said = says_already(base, read.facts, progress)
    return [
        Finding("nothing new", (line,), f"line {line}: the model says {fact.target_new!r} already")
        for fact, line, known in zip(read.facts, read.lines, said, strict=True)
        if known
    ]


def _json(read: FactFile, findings: Sequence[Finding], keep: Sequence[Sequence[str]]) -> dict[str, Any]:
    facts = [
        {
            "line": line,
            "prompt": fact.prompt,
            "subject": fact.subject,
            "target_new": fact.target_new,
            "subject_by": origin.subject,
            "answer_by": origin.answer,
            "keep": list(suggested),
        }
        for line, fact, origin, suggested in zip(read.lines, read.facts, read.origins, keep, strict=True)
    ]
    return {
        "schema": read.schema,
        "facts": facts,
        "refused": [asdict(skipped) for skipped in read.skipped],
        "findings": [asdict(finding) for finding in findings],
    }


def _show(
    edits: Path,
    read: FactFile,
    findings: Sequence[Finding],
    keep: Sequence[Sequence[str]],
    limit: int | None,
) -> None:
    if read.facts:
        print_tables(_table(read, keep, limit))
    for skipped in read.skipped:
        say(f"refused: line {skipped.line}: {skipped.reason}")
    for finding in findings:
        say(f"{finding.kind}: {finding.text}")
    if any(origin.subject == "whole prompt" for origin in read.origins):
        say("A prompt that is its own subject is edited at its last token.")
    say(
        f"{edits}: {counted(len(read.facts), 'fact')}, {read.understood} of them understood; "
        f"{len(read.skipped)} refused"
    )


def _table(read: FactFile, keep: Sequence[Sequence[str]], limit: int | None) -> Table:
    left = len(read.facts) - len(read.facts[:limit])
    columns = ("line", "prompt", "new answer", "subject by", "answer by", "could keep")
    title = f"{read.schema} facts ({left} more with --all)" if left else f"{read.schema} facts"
    table = plain_table(title, columns, right=columns[:1])
    rows = zip(read.lines, read.facts, read.origins, keep, strict=True)
    for line, fact, origin, suggested in islice(rows, limit):
        before, _, after = fact.prompt.partition("{}")
        prompt = marked_text(before, fact.subject_text, after)
        table.add_row(str(line), prompt, fact.target_new, origin.subject, origin.answer, "; ".join(suggested))
    return table

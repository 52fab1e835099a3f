"""`moe-patch stack check`: check whether the patches of a stack go together."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_patch.cli.console import plain_table, print_json, print_tables, say
from moe_patch.cli.options import NEW_FILE, json_option
from moe_patch.cli.output import check_writable
from moe_patch.cli.stack.options import conflict_options, limits_of, stack_option

if TYPE_CHECKING:
    from rich.table import Table

    from moe_patch.stack.check import StackCheck

SHOWN = 20  # pairs in the table without --all


@click.command(
    epilog="""\b
Examples:
  moe-patch stack check
  moe-patch stack check --heatmap conflicts.png --refuse 0.5
"""
)
@conflict_options
@click.option("--all", "show_all", is_flag=True, help=f"Show every pair, not only the {SHOWN} worst.")
@click.option(
    "--heatmap",
    type=NEW_FILE,
    help="Draw how far each patch moves the facts of the others (.png, .svg, .pdf); needs matplotlib.",
)
@stack_option
@json_option
def check(
    warn: float | None,
    refuse: float | None,
    allow_conflicts: bool,
    show_all: bool,
    heatmap: Path | None,
    lock_path: Path,
    as_json: bool,
) -> None:
    """Check files, hashes, bases and facts, and how far the patches move one another's facts.

    Shares are relative to each fact's own edit at the layer. The command fails if anything is refused.
    """
    if heatmap is not None:
        check_writable(heatmap, "--heatmap")
    from moe_patch.stack import read_lock
    from moe_patch.stack.check import check_stack

    lock = read_lock(lock_path)
    found = check_stack(lock, lock_path, limits_of(warn, refuse), allow_conflicts=allow_conflicts)
    if as_json:
        print_json(_json(found))
    else:
        _show(found, None if show_all else SHOWN)
    if heatmap is not None:
        from moe_patch.stack.heatmap import draw_heatmap

        draw_heatmap(found.disturbances, heatmap)
        say(f"Drawn: {heatmap}", err=True)
    if found.refused:
        raise click.exceptions.Exit(1)


def _json(found: StackCheck) -> dict[str, Any]:
    return {
        "refused": found.refused,
        "findings": [asdict(finding) for finding in found.findings],
        "pairs": [asdict(pair) for pair in found.disturbances],
        "standings": [asdict(shift) for shift in found.fact_shifts],
    }


def _show(found: StackCheck, limit: int | None) -> None:
    print_tables(*_tables(found, limit))
    for finding in found.findings:
        say(f"{finding.level}: {finding.text}")
    if not found.findings:
        say("The patches go together.")


def _tables(found: StackCheck, limit: int | None) -> list[Table]:
    tables = [_pairs(found, limit)] if found.disturbances else []
    return [*tables, _fact_shifts(found)] if found.fact_shifts else tables


def _pairs(found: StackCheck, limit: int | None) -> Table:
    left = len(found.disturbances) - len(found.disturbances[:limit])
    columns = ("facts of", "moved by", "layer", "median", "most", "of it along", "fact")
    table = plain_table(f"Pairs ({left} more with --all)" if left else "Pairs", columns, right=columns[2:6])
    for pair in found.disturbances[:limit]:
        shares = (f"{pair.median:.1%}", f"{pair.worst:.1%}", f"{pair.along:+.1%}")
        table.add_row(pair.disturbed, pair.by, str(pair.layer), *shares, pair.fact)
    return table


def _fact_shifts(found: StackCheck) -> Table:
    columns = ("facts of", "layer", "median", "most", "fact")
    table = plain_table("Moved by the whole stack, combined", columns, right=columns[1:4])
    for shift in found.fact_shifts:
        shares = (f"{shift.median:.1%}", f"{shift.worst:.1%}")
        table.add_row(shift.patch, str(shift.layer), *shares, shift.fact)
    return table

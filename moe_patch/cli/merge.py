"""`moe-patch merge`: write a checkpoint with patches in its weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_patch.cli.console import plain_table, print_json, print_tables, say
from moe_patch.cli.model_name import DEFAULT, model_or_base_option, say_model
from moe_patch.cli.options import FILE, allow_large_option, json_option, link_option
from moe_patch.cli.output import out_folder_option
from moe_patch.cli.stack.options import allow_option
from moe_patch.io.wording import counted
from moe_patch.progress import progress_bars

if TYPE_CHECKING:
    from moe_patch.checkpoint import MergePlan, Record
    from moe_patch.checkpoint.link import How
    from moe_patch.patch import Patch


@click.command(
    epilog="""\b
Examples:
  moe-patch merge --model Qwen/Qwen3-30B-A3B --patch capitals.safetensors --out qwen3-patched
  moe-patch merge --stack moe-patch.stack --out atlas-patched --link hard --keep-originals
  moe-patch merge --patch capitals.safetensors --out atlas-patched --rounding compensated
  moe-patch merge --patch capitals.safetensors --out atlas-patched --dry-run --json
"""
)
@model_or_base_option(f"Name or folder of the checkpoint.  {DEFAULT}")
@click.option(
    "--patch",
    "patch_paths",
    type=FILE,
    multiple=True,
    help="A patch to merge; repeatable, in order.",
)
@click.option(
    "--stack", type=FILE, help="Merge the enabled patches of a stack, combined as its lock file says."
)
@allow_option
@out_folder_option
@link_option
@click.option(
    "--keep-originals",
    is_flag=True,
    help="Store the original experts next to the weights, so that unmerge needs no base.",
)
@click.option(
    "--rounding",
    type=click.Choice(["nearest", "compensated"]),
    default="nearest",
    show_default=True,
    help="Round each weight to the nearest number, or so that the outputs for the facts are kept.",
)
@click.option("--recheck", is_flag=True, help="Hash the base's files again, even if they seem unchanged.")
@click.option(
    "--allow-loss",
    is_flag=True,
    help="Allow quantised experts (MXFP4, FP8) to lose more than a tenth of the median fact's edit.",
)
@allow_large_option
@click.option("--dry-run", is_flag=True, help="Print what would be written, and write nothing.")
@json_option
def merge(
    model: str | None,
    patch_paths: tuple[Path, ...],
    stack: Path | None,
    allow_conflicts: bool,
    out: Path,
    link: Any,
    keep_originals: bool,
    rounding: Any,
    recheck: bool,
    allow_loss: bool,
    allow_large: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Write the base with the patches in its weights: a checkpoint for any engine.

    Only shards with patched experts are written; the others are linked. The complete folder appears in one
    step. If a run is interrupted, the same command continues it.
    """
    from moe_patch.io.files import refuse_existing

    refuse_existing(out)
    from moe_patch.checkpoint import open_checkpoint, plan_merge

    patches = _patches(patch_paths, stack, allow_conflicts)
    plan = plan_merge(
        open_checkpoint(say_model(model), quantised=True),
        patches,
        out,
        link=link,
        keep_originals=keep_originals,
        rounding=rounding,
        recheck=recheck,
        allow_loss=allow_loss,
        allow_large=allow_large,
    )
    planned = _planned(plan)
    if dry_run:
        print_json(planned) if as_json else print_tables(_table("Would write", planned))
        return
    say(f"Writing {out}: {plan.disk_bytes:,} bytes on disk, both at the peak and at the end.", err=True)
    with progress_bars() as progress:
        record = plan.run(progress)
    if as_json:
        print_json(planned | {"record": record.model_dump()})
    else:
        print_tables(_table("Written", planned), _losses(record))


def _patches(paths: tuple[Path, ...], stack: Path | None, allow_conflicts: bool) -> list[Patch]:
    from moe_patch.patch import load
    from moe_patch.stack.resolve import resolve_stack

    if bool(paths) == (stack is not None):
        raise click.UsageError("Give either patches, with --patch, or a stack, with --stack.")
    if stack is None:
        return [load(path) for path in paths]
    resolved = resolve_stack(stack, allow_conflicts=allow_conflicts)
    for note in resolved.notes:
        say(note, err=True)
    return [resolved.patch]


def _planned(plan: MergePlan) -> dict[str, Any]:
    return {
        "out": str(plan.out),
        "base": plan.checkpoint.name,
        "patches": [patch.hash for patch in plan.patches],
        "rewritten": sorted(plan.changes),
        "experts": sum(len(changes) for changes in plan.changes.values()),
        "untouched": plan.untouched,
        "untouched_by": plan.linked,
        "rounding": plan.rounding,
        "disk_bytes": plan.disk_bytes,
    }


def _table(title: str, planned: dict[str, Any]) -> Any:
    table = plain_table(title, ("", "value"))
    table.show_header = False
    table.add_row("folder", planned["out"])
    table.add_row("base", planned["base"])
    table.add_row("experts patched", f"{planned['experts']} in {', '.join(planned['rewritten'])}")
    table.add_row("other weights", _others(len(planned["untouched"]), planned["untouched_by"]))
    table.add_row("bytes on the disk", f"{planned['disk_bytes']:,}")
    return table


def _others(files: int, how: How) -> str:
    """How many weight files do not change, and how they get into the folder."""
    ways = {"hard": "hard-linked", "copy": "copied", "reflink": "sharing their blocks"}
    return f"{counted(files, 'file')}, {ways[how]}" if files else "none"


def _losses(record: Record) -> Any:
    columns = ("patch", "facts", "lost to rounding, worst fact", "median fact")
    table = plain_table("Patches", columns, right=columns[1:])
    for patch in record.patches:
        losses = (f"{100 * patch.lost[which]:.2g}%" if patch.lost else "" for which in ("worst", "median"))
        table.add_row(patch.hash, str(len(patch.facts)), *losses)
    return table

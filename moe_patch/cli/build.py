"""`moe-patch build`: turn facts into a patch file."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from moe_patch.cli.console import print_json, print_tables, progress_bars, say
from moe_patch.cli.options import (
    FILE,
    NEW_FILE,
    NumberRange,
    json_option,
    model_options,
    open_model,
    read_edits,
    schema_option,
)
from moe_patch.cli.output import check_writable

if TYPE_CHECKING:
    from pydantic import BaseModel

    from moe_patch.base.model import Base
    from moe_patch.data.fact_file import FactFile
    from moe_patch.data.schemas import ZsreSchema
    from moe_patch.methods import Method
    from moe_patch.methods.earlier_edits import EarlierEdits


def _layers(ctx: click.Context, param: click.Parameter, value: str | None) -> list[int] | None:
    """Parse `2,3,4` or `2-4` into a list of decoder layers."""
    found: list[int] = []
    for part in value.split(",") if value is not None else ():
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise click.BadParameter(
                f"{value!r} is not a list of layers: expected a form such as 2,3,4 or 2-4"
            )
        found += range(int(first), int(last if dash else first) + 1)
    return None if value is None else found


def _method_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from moe_patch.methods import METHODS

    return [CompletionItem(name, help=method.pretty_name) for name, method in sorted(METHODS.items())]


#: The method options that each command line option sets, as far as the method has them.
_NAMES = {
    "layers": ("layers", "layer"),
    "batch_size": ("batch_size",),
    "solver": ("solver",),
    "ridge": ("ridge",),
    "projection": ("projection",),
    "protect_earlier": ("protect_earlier",),
    "unseen": ("unseen",),
    "corpus": ("corpus",),
    "seed": ("seed", "targets.seed"),
    "fact_token": ("targets.fact_token",),
    "chat": ("targets.chat", "chat"),
}


@click.command(
    epilog="""\b
Examples:
  moe-patch build --edits facts.jsonl
  moe-patch build --edits facts.jsonl --model ./Qwen3-30B-A3B --layers 4-6 --corpus wiki.txt --device-map auto
  moe-patch build --edits facts.jsonl --batch-size 50 --set targets.clamp=0.5 --out capitals.safetensors
  moe-patch build --edits rivers.jsonl --on moe-patch.stack --require 0.95

\b
Exit codes:
  0 built   15 built, but fewer facts took than --require asks

Options that are not given come from --recipe, or from the recipe that ships for the model, or from the
method's defaults, in this order.
"""
)
@click.option(
    "--edits",
    type=FILE,
    required=True,
    help="Facts: native, or records of COUNTERFACT, ZsRE, KnowEdit, QAEdit, WikiBigEdit or KnowGIC, one to a "
    "line or in one JSON array.",
)
@schema_option
@click.option("--out", type=NEW_FILE, help="The patch.  [default: EDITS.safetensors]")
@click.option(
    "--method", default="moeedit", show_default=True, shell_complete=_method_names, help="Editing method."
)
@click.option(
    "--on",
    "lock_path",
    type=FILE,
    help="A stack to build on: it is applied during the build, and its facts are protected.",
)
@click.option("--recipe", help="Hyper-parameters: a .yaml file, or the name of a recipe that ships.")
@click.option("--layers", callback=_layers, help="Decoder layers to edit, as 2,3,4 or 2-4.")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Number of facts solved together; batches are solved in sequence.",
)
@click.option(
    "--solver", type=click.Choice(["exact", "bcd"]), help="Closed form, or block coordinate descent."
)
@click.option(
    "--ridge",
    type=NumberRange(min=0, min_open=True),
    help="lambda, the penalty on the size of the deltas.",
)
@click.option(
    "--projection/--no-projection", default=None, help="Leave the outputs for preserved text unchanged."
)
@click.option(
    "--protect-earlier/--no-protect-earlier",
    default=None,
    help="Leave the facts of earlier batches unchanged.",
)
@click.option(
    "--unseen",
    type=click.Choice(["protect", "edit", "error"]),
    help="What to do with experts that preserved text hardly uses.",
)
@click.option("--corpus", type=FILE, help="Preserved text: .txt, or .jsonl with a text field.")
@click.option(
    "--fact-token",
    type=click.Choice(["subject-last", "last"]),
    help="The token whose hidden state is edited.",
)
@click.option("--chat/--no-chat", default=None, help="Format prompts with the tokenizer's chat template.")
@click.option("--seed", type=int, help="Seed of all random numbers.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any other option of the method; repeatable.",
)
@click.option(
    "--require",
    type=NumberRange(min=0, max=1),
    help="Share of the facts that must take, such as 0.95: with fewer, the exit code is 15. The patch is "
    "written all the same.",
)
@click.option("--skip-invalid", is_flag=True, help="List facts that cannot be used, and build without them.")
@model_options
@json_option
def build(
    edits: Path,
    out: Path | None,
    method: str,
    lock_path: Path | None,
    recipe: str | None,
    settings: tuple[str, ...],
    schema: ZsreSchema | None,
    require: float | None,
    skip_invalid: bool,
    model: str | None,
    dtype: str,
    device_map: str | None,
    offload_folder: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Build a patch that makes the model say the facts in EDITS."""
    from moe_patch.cli.summary import describe_patch, summary_tables
    from moe_patch.methods import get_method
    from moe_patch.patch import save

    chosen = get_method(method)
    out = check_writable(out or Path(f"{edits.stem}.safetensors"))
    read_file = partial(read_edits, edits, schema=schema, skip_invalid=skip_invalid)
    read_file()  # report mistakes in the facts before the model is loaded
    earlier = _earlier_edits(lock_path) if lock_path else None
    base = open_model(model, dtype, device_map, offload_folder, allow_dense=chosen.edits_dense)
    read = read_file(base=base)
    _list_skipped(read)
    _tell_convention(read, edits)
    options = _options(chosen, base, recipe, given, settings)
    started = time.monotonic()
    with progress_bars() as progress:
        if earlier is None:
            patch = chosen.build(base, read, options, progress)
        else:
            patch = chosen.build_on(base, read, options, earlier, progress)
    seconds = time.monotonic() - started
    save(patch, out)
    described = describe_patch(patch, out)
    if as_json:
        print_json(described | {"patch": str(out), "seconds": seconds})
    else:
        print_tables(*summary_tables(described))
        say("", f"{out}: {len(read.facts)} facts, built in {seconds:.1f} s")
    if require is not None:
        _require(described["taken"], require)


def _options(
    method: Method[Any], base: Base, recipe: str | None, given: Mapping[str, Any], settings: Sequence[str]
) -> BaseModel:
    """The method's options. The command line overrides the recipe, which overrides the defaults."""
    from moe_patch.methods.overrides import merged_options, option_names, parse_setting
    from moe_patch.methods.recipes import load_recipe, recipe_for

    found = recipe_for(base) if recipe is None else load_recipe(recipe)
    known = set(option_names(method.Options))
    overrides: dict[str, Any] = {}
    for flag, value in given.items():
        if value is not None:
            names = [name for name in _NAMES[flag] if name in known]
            overrides |= dict.fromkeys(names or _NAMES[flag][:1], value)
    overrides |= dict(map(parse_setting, settings))
    values = found.method_options(method.name) if found else {}
    options: BaseModel = merged_options(
        method.Options, values, overrides, f"recipe {found.name}" if found else ""
    )
    return options


def _earlier_edits(lock_path: Path) -> EarlierEdits:
    """The stack to build on. Notes on it go to standard error."""
    from moe_patch.methods.earlier_edits import EarlierEdits
    from moe_patch.stack import resolve_stack

    resolved = resolve_stack(lock_path)
    for note in resolved.notes:
        say(note, err=True)
    return EarlierEdits(resolved.patch, resolved.patch.parents)


def _require(taken: float | None, least: float) -> None:
    """End with the exit code of a patch that does not hold, as `verify` has it, if too few facts took."""
    from moe_patch.share.verify import Verdict

    if taken is None or taken < least:
        share = "an unknown share" if taken is None else f"{taken:.1%}"
        say(f"{share} of the facts took; {least:.1%} were required", err=True)
        raise click.exceptions.Exit(int(Verdict.NOT_HELD))


def _list_skipped(read: FactFile) -> None:
    for skipped in read.skipped:
        say(f"Skipped line {skipped.line}: {skipped.reason}", err=True)
    if read.skipped:
        say(f"{len(read.skipped)} facts were skipped; {len(read.facts)} are left.", err=True)


def _tell_convention(read: FactFile, path: Path) -> None:
    """Say which answer ZsRE records edit to, since papers differ in it and the records do not tell."""
    takes = {"zsre-alt": "alt", "zsre-answers": "the first of `answers`"}
    if read.schema in takes:
        other = next(schema for schema in takes if schema != read.schema)
        told = f"{path}: ZsRE records, read as {read.schema}: the new answer is {takes[read.schema]}"
        say(f"{told}; --schema {other} takes {takes[other]}", err=True)

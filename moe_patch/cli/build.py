"""`moe-patch build`: turn facts into a patch file."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_patch.cli.console import plain_table, print_json, print_tables, say
from moe_patch.cli.method_options import layers_option, method_option, settings_option
from moe_patch.cli.model_name import say_model
from moe_patch.cli.options import (
    FILE,
    NumberRange,
    corpus_option,
    dtype_of,
    json_option,
    model_options,
    quiet_transformers,
    schema_option,
)
from moe_patch.cli.output import free_place, out_option
from moe_patch.cli.required import check_required, require_options, required_shares
from moe_patch.io.wording import counted
from moe_patch.progress import progress_bars

if TYPE_CHECKING:
    from rich.table import Table

    from moe_patch.building import BuildRequest
    from moe_patch.data.schemas import ZsreSchema
    from moe_patch.patch import Patch
    from moe_patch.tuning import Choice


@click.command(
    epilog="""\b
Examples:
  moe-patch build --edits facts.jsonl
  moe-patch build --edits facts.jsonl --model ./Qwen3-30B-A3B --layers 4-6 --corpus wiki.txt --device-map auto
  moe-patch build --edits facts.jsonl --corpus wiki.parquet=3 --corpus code/
  moe-patch build --edits facts.jsonl --batch-size 50 --set targets.clamp=0.5 --out capitals.safetensors
  moe-patch build --edits rivers.jsonl --on moe-patch.stack --require 0.95
  moe-patch build --edits facts.jsonl --recipe as-published --corpus wiki.parquet

\b
Exit codes:
  0 built   15 built, but the patch is not as good as a --require option asks

Options that are not given come from --recipe, else from the recipe that ships for the model, else from the
one that "moe-patch tune" found for it. What is left open is chosen by looking at the model, or is the
method's default. The report says which came from where.
"""
)
@click.option(
    "--edits",
    type=FILE,
    required=True,
    help="Facts as JSON, a table (.csv, .tsv) or text (.txt), or records of COUNTERFACT, ZsRE, KnowEdit, "
    "QAEdit, WikiBigEdit or KnowGIC. `moe-patch facts check` shows how they are understood.",
)
@schema_option
@out_option("The patch.  [default: EDITS.safetensors]", required=False)
@method_option
@click.option(
    "--on",
    "lock_path",
    type=FILE,
    help="A stack to build on: it is applied during the build, and its facts are protected.",
)
@click.option(
    "--recipe",
    help='Hyper-parameters: a .yaml file, or the name of a recipe that ships; "as-published" for those of '
    'the method\'s paper, "tuned" for the one that "moe-patch tune" found, "none" for none.',
)
@layers_option
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
@corpus_option
@click.option(
    "--fact-token",
    type=click.Choice(["subject-last", "last"]),
    help="The token whose hidden state is edited. With last, facts need no subject.",
)
@click.option("--chat/--no-chat", default=None, help="Format prompts with the tokenizer's chat template.")
@click.option(
    "--stop/--no-stop",
    default=None,
    help="Train the answers' end too, so that the model writes them and nothing more.",
)
@click.option("--seed", type=int, help="Seed of all random numbers.")
@settings_option
@click.option(
    "--card/--no-card",
    "with_card",
    default=True,
    show_default=True,
    help="End with a card: what the model says to facts, paraphrases and neighbours, and what else moved.",
)
@require_options
@click.option("--dry-run", is_flag=True, help="Show the options and what the build will take; build nothing.")
@click.option("--skip-invalid", is_flag=True, help="List facts that cannot be used, and build without them.")
@model_options
@json_option
def build(
    edits: Path,
    out: Path | None,
    force: bool,
    method: str,
    lock_path: Path | None,
    recipe: str | None,
    settings: tuple[str, ...],
    schema: ZsreSchema | None,
    with_card: bool,
    dry_run: bool,
    skip_invalid: bool,
    model: str | None,
    dtype: str,
    device_map: str | None,
    offload_folder: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Build a patch that makes the model say the facts in EDITS."""
    out = free_place(out or Path(f"{edits.stem}.safetensors"), force=force or dry_run)
    required = required_shares(given, with_card)
    from moe_patch.building import BuildRequest, open_job
    from moe_patch.building.given import given_options
    from moe_patch.cli.summary import describe_patch, summary_tables
    from moe_patch.methods import get_method
    from moe_patch.patch import save

    quiet_transformers()
    request = BuildRequest(
        edits,
        model=say_model(model),
        method=method,
        recipe=recipe,
        given=given_options(get_method(method), given, settings),
        stack=lock_path,
        schema=schema,
        skip_invalid=skip_invalid,
        dtype=dtype_of(dtype),
        device_map=device_map,
        offload_folder=offload_folder,
    )
    if dry_run:
        _show_dry_run(request, as_json=as_json)
        return
    job = open_job(request, tell=partial(say, err=True))
    with progress_bars() as progress:
        choice = job.choose(progress)
        built = job.run(choice, progress)
        save(built.patch, out)
        described = describe_patch(built.patch, out)
        card = job.card(built, size=described["bytes"], progress=progress) if with_card else None
    if as_json:
        found = {"patch": str(out), "seconds": built.seconds, "options": choice.to_json()}
        print_json(described | found | {"card": None if card is None else card.to_json()})
    else:
        print_tables(*summary_tables(described, untaken=card is None), *_choice_tables(choice))
        say("", f"{out}: {_facts_of(built.patch, len(job.facts))}, built in {built.seconds:.1f} s", "")
        print_tables(*([] if card is None else card.tables()))
    check_required(described["taken"], card, required)


def _facts_of(patch: Patch, new: int) -> str:
    """How many facts a patch has, and how many of them are new if it was trained on from another patch."""
    count = counted(len(patch.facts), "fact")
    return count if len(patch.facts) == new else f"{count}, {new} of them new"


def _show_dry_run(request: BuildRequest, *, as_json: bool) -> None:
    """Print what a build would do."""
    from moe_patch.building.dry_run import plan_build
    from moe_patch.cli.plan import show_plan

    found = plan_build(request, tell=partial(say, err=True))
    if as_json:
        print_json(found.to_json())
        return
    print_tables(*_choice_tables(found.choice))
    show_plan(found.plan, as_json=False)


def _choice_tables(choice: Choice) -> list[Table]:
    """A table of the options that are no plain defaults, if there are any."""
    if not choice.sources:
        return []
    table = plain_table("Options that are no defaults", ("option", "value", "from", "why"))
    for source in choice.sources:
        table.add_row(source.option, _shown(source.value), source.origin, source.reason)
    return [table]


def _shown(value: Any) -> str:
    """An option's value, as it could be set."""
    return ",".join(map(str, value)) if isinstance(value, list) else json.dumps(value).strip('"')

"""`moe-patch eval`: the scores of a patched model, next to those of its base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_patch.cli.console import print_json, print_tables
from moe_patch.cli.options import (
    FILE,
    allow_large_option,
    batch_option,
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
    from moe_patch.data.schemas import ZsreSchema


@click.command(
    "eval",
    epilog="""\b
Examples:
  moe-patch eval capitals.safetensors
  moe-patch eval capitals.safetensors --edits more-facts.jsonl --rule zsre --json
""",
)
@click.argument("patch_path", metavar="PATCH", type=FILE)
@click.option("--edits", type=FILE, help="Facts to ask about.  [default: the patch's own]")
@schema_option
@click.option(
    "--rule",
    type=click.Choice(["counterfact", "zsre"]),
    help="Compare two answers' probabilities, or count greedy tokens.  "
    "[default: counterfact for COUNTERFACT's and native facts that all have a target_true, else zsre]",
)
@click.option(
    "--routing/--no-routing", default=True, show_default=True, help="Compare the router's choices too."
)
@click.option(
    "--generate/--no-generate",
    default=True,
    show_default=True,
    help="Have the base make paraphrases and neighbours for facts that have none. Their scores are marked.",
)
@mode_option
@allow_large_option
@chat_option
@batch_option
@model_options
@json_option
def evaluate(
    patch_path: Path,
    edits: Path | None,
    schema: ZsreSchema | None,
    rule: Any,
    routing: bool,
    generate: bool,
    mode: Any,
    allow_large: bool,
    chat: bool | None,
    batch_size: int,
    as_json: bool,
    **model: Any,
) -> None:
    """Measure PATCH: efficacy, generalization, specificity, utility, and the shift in routing.

    Scores are percentages with 95% intervals. The base is measured in the same run, before the patch is
    applied. The report names the schema of the facts, the rule that follows from it unless --rule is given,
    and what specificity compares with. Facts without paraphrases or neighbours are asked with prompts that
    the base makes, and these scores are marked as generated. Where a patch rewrites prompts, the patched
    model is asked the rewritten ones.
    """
    from moe_patch.building.edits import read_edits
    from moe_patch.evaluation import Setting
    from moe_patch.evaluation import evaluate as run
    from moe_patch.methods import rewriter_of
    from moe_patch.patch import load

    if schema is not None and edits is None:
        raise click.UsageError("--schema says how to read --edits: give it a facts file.")
    patch = load(patch_path)
    facts = read_edits(edits, schema=schema, built=patch) if edits else None
    base = open_model(**model, allow_dense=patch.kind != "delta")
    with progress_bars() as progress:
        setting = Setting(
            batch_size, built_with_chat(patch, chat), progress, rewrite=rewriter_of(base, patch)
        )
        how = {"mode": mode, "allow_large": allow_large, "routing": routing, "generate": generate}
        report = run(base, patch, facts, rule=rule, setting=setting, **how)
    if as_json:
        print_json(report.to_json())
    else:
        print_tables(*report.tables())

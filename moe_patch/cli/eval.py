"""`moe-patch eval`: the scores of a patched model, next to those of its base; several patches compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_patch.cli.evaluated import named_progress, show_reports, write_lines
from moe_patch.cli.judging import judge_of, judge_options
from moe_patch.cli.named_patches import allow_dense, common_chat, load_named
from moe_patch.cli.options import (
    FILE,
    FOLDER,
    NEW_FILE,
    allow_large_option,
    batch_option,
    chat_option,
    json_option,
    mode_option,
    model_options,
    open_model,
    schema_option,
)
from moe_patch.cli.output import check_writable
from moe_patch.progress import progress_bars

if TYPE_CHECKING:
    from moe_patch.base.model import Base
    from moe_patch.data.facts import Fact
    from moe_patch.data.schemas import ZsreSchema
    from moe_patch.evaluation import FreeSetting, Setting
    from moe_patch.evaluation.drift import Drift
    from moe_patch.evaluation.tasks import TaskReport
    from moe_patch.patch import Patch


@click.command(
    "eval",
    epilog="""\b
Examples:
  moe-patch eval capitals.safetensors
  moe-patch eval capitals.safetensors --edits more-facts.jsonl --rule zsre --json
  moe-patch eval capitals.safetensors --judge http://localhost:8000/v1 --judge-model NAME --replies said.jsonl
  moe-patch eval capitals.safetensors --per-fact --log-samples samples.jsonl
  moe-patch eval moeedit.safetensors mote.safetensors --edits facts.jsonl
  moe-patch eval capitals.safetensors --text held-out.txt --tasks boolq,sst2 --task-limit 200
""",
)
@click.argument("patch_paths", metavar="PATCH...", nargs=-1, required=True, type=FILE)
@click.option("--edits", type=FILE, help="Facts to ask about.  [default: the patches' own]")
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
@click.option(
    "--free/--no-free",
    "free",
    default=True,
    show_default=True,
    help="Have the model write until it stops, and score what it writes.",
)
@click.option(
    "--free-tokens",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Most tokens that it writes to a prompt.",
)
@judge_options
@click.option("--replies", type=NEW_FILE, help="Write all replies to this file, as JSON lines.")
@click.option("--per-fact", is_flag=True, help="Show each fact by itself; with --json, each of its prompts.")
@click.option(
    "--log-samples",
    type=NEW_FILE,
    help="Write every prompt with both answers and their probabilities to this file, as JSON lines.",
)
@click.option(
    "--preserve-set",
    type=FILE,
    help="Facts of the same data set that are not edited, to compare the routing on.  "
    "[default: those of --edits that the patch does not edit]",
)
@click.option("--text", type=FILE, help="Held-out text: report the perplexity before and after.")
@click.option(
    "--tasks", metavar="NAMES", help="Tasks of lm-evaluation-harness, or a suite such as memoe-fig3; a,b,c."
)
@click.option("--tasks-folder", type=FOLDER, help="A folder with further tasks of the harness.")
@click.option("--task-limit", type=click.IntRange(min=1), help="Most samples of a task.  [default: all]")
@mode_option
@allow_large_option
@chat_option
@batch_option
@model_options
@json_option
def evaluate(
    patch_paths: tuple[Path, ...],
    edits: Path | None,
    schema: ZsreSchema | None,
    rule: Any,
    routing: bool,
    generate: bool,
    free: bool,
    free_tokens: int,
    judge_url: str | None,
    judge_model: str | None,
    replies: Path | None,
    per_fact: bool,
    log_samples: Path | None,
    preserve_set: Path | None,
    text: Path | None,
    tasks: str | None,
    tasks_folder: Path | None,
    task_limit: int | None,
    mode: Any,
    allow_large: bool,
    chat: bool | None,
    batch_size: int,
    as_json: bool,
    **model: Any,
) -> None:
    """Measure PATCH: the papers' scores, what the model writes by itself, and the shift in routing.

    Scores are percentages with 95% intervals. The base is measured in the same run, before the patch is
    applied. The report names the schema of the facts, the rule that follows from it unless --rule is given,
    and what specificity compares with. Facts without paraphrases or neighbours are asked with prompts that
    the base makes, and these scores are marked as generated. Where a patch rewrites prompts, the patched
    model is asked the rewritten ones.

    Several patches are each measured on the bare base, and on the same facts: those of --edits, else all
    facts of theirs together. They are shown side by side.

    What the model writes by itself is compared with the answers by its first sentence or line, by containment
    and, if asked, by a judge, whose key is in MOE_PATCH_JUDGE_KEY. docs/evaluation.md defines every score.
    """
    from moe_patch.building.edits import read_edits
    from moe_patch.evaluation import BaselineMemory, Setting
    from moe_patch.evaluation import evaluate as run
    from moe_patch.methods import rewriter_of

    if schema is not None and edits is None:
        raise click.UsageError("--schema says how to read --edits: give it a facts file.")
    writing = _free_setting(free, free_tokens, judge_url, judge_model, replies)
    for path, option in ((replies, "--replies"), (log_samples, "--log-samples")):
        if path is not None:
            check_writable(path, option)
    if tasks is None and (tasks_folder or task_limit):
        raise click.UsageError("--tasks-folder and --task-limit are for --tasks: name some.")
    patches = load_named(patch_paths)
    if tasks is not None and any(patch.kind == "prompt" for patch in patches.values()):
        raise click.UsageError(
            "--tasks have prompts of their own, and PATCH changes prompts alone: leave it out."
        )
    chat = common_chat(patches, chat)
    first = next(iter(patches.values()))
    facts = read_edits(edits, schema=schema, built=first) if edits else _own_facts(patches)
    untouched = read_edits(preserve_set, schema=schema, built=first) if preserve_set else ()
    base = open_model(**model, allow_dense=allow_dense(patches.values()))
    reports, memory = {}, BaselineMemory()
    with progress_bars() as progress:
        for name, patch in patches.items():
            setting = Setting(
                batch_size, chat, named_progress(progress, name, patches), rewrite=rewriter_of(base, patch)
            )
            how = {"mode": mode, "allow_large": allow_large}
            report = run(
                base,
                patch,
                facts,
                rule=rule,
                routing=routing,
                generate=generate,
                free=writing,
                untouched=untouched,
                samples=per_fact or log_samples is not None,
                setting=setting,
                memory=memory,
                **how,
            )
            if text is not None:
                report = replace(report, text=_on_text(base, patch, text, setting))
            if tasks is not None:
                limits = {"limit": task_limit, "folder": tasks_folder}
                report = replace(report, tasks=_on_tasks(base, patch, tasks, setting, **limits, **how))
            reports[name] = report
    write_lines(reports, replies=replies, samples=log_samples)
    show_reports(reports, per_fact=per_fact, as_json=as_json)


def _on_tasks(base: Base, patch: Patch, names: str, setting: Setting, **how: Any) -> TaskReport:
    """The scores on tasks of lm-evaluation-harness."""
    from moe_patch.evaluation.tasks import measure_tasks

    chosen = [name.strip() for name in names.split(",") if name.strip()]
    return measure_tasks(base, patch, chosen, setting, **how)


def _own_facts(patches: Mapping[str, Patch]) -> Sequence[Fact]:
    """The facts of all patches, equal ones once."""
    if len({patch.schema for patch in patches.values()}) > 1:
        raise click.UsageError("The patches hold facts of several schemas: name facts with --edits.")
    return tuple(dict.fromkeys(fact for patch in patches.values() for fact in patch.facts))


def _free_setting(
    free: bool, tokens: int, judge_url: str | None, judge_model: str | None, replies: Path | None
) -> FreeSetting | bool:
    """How the model writes freely; False if it does not."""
    from moe_patch.evaluation import FreeSetting

    judge = judge_of(judge_url, judge_model)
    if not free:
        if judge is not None or replies is not None:
            raise click.UsageError("--judge and --replies are for free writing: leave out --no-free.")
        return False
    return FreeSetting(tokens, judge=judge)


def _on_text(base: Base, patch: Patch, path: Path, setting: Setting) -> Drift:
    """How far the patch moves the model on a file's texts."""
    from moe_patch.data.text_files import file_texts
    from moe_patch.evaluation.drift import TEXT_LENGTH, measure_drift

    sequences = base.reader.sequences(list(file_texts(path)), TEXT_LENGTH)
    return measure_drift(base, patch, sequences, setting.progress)

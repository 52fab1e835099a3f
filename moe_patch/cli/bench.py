"""`moe-patch bench`: methods side by side on a model and facts, one file a run."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from moe_patch.cli.console import plain_table, print_json, print_tables, say
from moe_patch.cli.judging import judge_of, judge_options
from moe_patch.cli.method_options import layers_option, settings_option
from moe_patch.cli.options import (
    FILE,
    corpus_option,
    dtype_of,
    json_option,
    model_options,
    open_model,
    quiet_transformers,
    schema_option,
)
from moe_patch.cli.report import terminal_table
from moe_patch.progress import progress_bars

if TYPE_CHECKING:
    from moe_patch.base.model import Base
    from moe_patch.bench import Bench, Suite
    from moe_patch.bench.record import RunRecord

COUNT = click.IntRange(min=1)
_LENGTH = 512  # tokens of held-out text that are read together

MODES = ("single", "batch", "sequential", "sequential-batch")


def _suite_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from moe_patch.bench import shipped_suites

    return [CompletionItem(name) for name in shipped_suites()]


class _Several(click.ParamType[list[Any]]):
    """Values with commas between them."""

    def __init__(self, of: type, name: str, choices: tuple[str, ...] = ()) -> None:
        self.of, self.name, self.choices = of, name, choices

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The list of the values."""
        if isinstance(value, list):
            return value
        try:
            found = [self.of(part.strip()) for part in str(value).split(",")]
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers: expected a form such as 0,1,2", param, ctx)
        for each in found:
            if self.choices and each not in self.choices:
                self.fail(f"{each!r}: expected some of {', '.join(self.choices)}", param, ctx)
        return found


@click.command(
    epilog="""\b
Examples:
  moe-patch bench --edits facts.jsonl --out runs
  moe-patch bench --edits facts.jsonl --methods moeedit,mote --facts 50 --batch-size 50 --seeds 0,1 --out runs
  moe-patch bench --suite moeedit-table1 --edits counterfact.jsonl --edits zsre.jsonl --out runs
  moe-patch bench --suite mine.yaml --text wiki.txt --out runs --dry-run

A run is a file of the folder, written when it is over; what is finished is not run again. The folder is read
by "moe-patch report". Options that are given here win over the suite's.
""",
)
@click.option(
    "--suite",
    "suite_name",
    default="rivals",
    show_default=True,
    shell_complete=_suite_names,
    help="Experiments: a .yaml file, or the name of a suite that ships.",
)
@click.option("--edits", "edit_paths", type=FILE, multiple=True, help="Facts, as for build; repeatable.")
@schema_option
@click.option("--facts", type=COUNT, help="How many facts of each file.  [default: as the suite says]")
@click.option(
    "--methods",
    type=_Several(str, "NAMES"),
    help="Methods, with commas: the suite's arms with these, and those that it lacks with their defaults.",
)
@click.option("--modes", type=_Several(str, "MODES", MODES), help=f"Some of {', '.join(MODES)}.")
@click.option("--batch-size", type=COUNT, help="Facts solved together in sequential batches.")
@click.option("--seeds", type=_Several(int, "NUMBERS"), help="Seeds, with commas; one run each.")
@click.option(
    "--sample", type=click.Choice(["first", "random"]), help="Which facts of a file; random follows the seed."
)
@click.option("--recipe", help="Hyper-parameters for arms that name none, as for build.")
@layers_option
@corpus_option
@settings_option
@click.option("--text", type=FILE, help="Held-out text: perplexity is measured on it, before and after.")
@click.option(
    "--text-tokens", type=COUNT, default=20_000, show_default=True, help="Most tokens of it to read."
)
@click.option("--asked", type=COUNT, help="Facts asked about on the way.")
@click.option(
    "--free-prompts", type=COUNT, help="Most prompts of a kind after which the model writes freely."
)
@judge_options
@click.option("--buckets", type=click.IntRange(2, 100), help="Score by knowledge frequency in so many parts.")
@click.option(
    "--prompts-per-pass", type=COUNT, default=64, show_default=True, help="Prompts in one forward pass."
)
@click.option("--skip-invalid", is_flag=True, help="Leave out facts that cannot be used.")
@click.option(
    "-o",
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The folder of the runs; it may exist.",
)
@click.option("--dry-run", is_flag=True, help="List the runs; build nothing.")
@model_options
@json_option
def bench(
    suite_name: str,
    edit_paths: tuple[Path, ...],
    schema: Any,
    text: Path | None,
    text_tokens: int,
    prompts_per_pass: int,
    judge_url: str | None,
    judge_model: str | None,
    skip_invalid: bool,
    out: Path,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Run the experiments of a suite: build each arm, evaluate it, and keep all figures.

    Scores are those of "moe-patch eval", with the base's own beside them. Measured too are the scores on the
    way, each stage's time, the most memory that a build took, the size of the patch, and the perplexity of
    held-out text. A judge's key is in MOE_PATCH_JUDGE_KEY.
    """
    from moe_patch.bench import Bench, load_suite, run_bench
    from moe_patch.bench.experiments import expand, read_materials
    from moe_patch.bench.run import Asking
    from moe_patch.bench.suite import check_arms, suite_path

    judge = judge_of(judge_url, judge_model)
    model = {name: options.pop(name) for name in ("model", "dtype", "device_map", "offload_folder")}
    suite = _changed(load_suite(suite_name), **options)
    check_arms(suite, suite_name)
    materials = read_materials(
        suite,
        edit_paths,
        folder=suite_path(suite_name).parent,
        schema=schema,
        skip_invalid=skip_invalid,
        tell=partial(say, err=True),
    )
    base = _outline(**model) if dry_run else _open(suite, **model)
    tokens, text_hash = _held_out(base, text, text_tokens, read=not dry_run)
    asking = Asking(
        batch_size=prompts_per_pass,
        text=tokens,
        checkpoints=suite.checkpoints,
        asked=suite.asked,
        buckets=suite.buckets,
        free_prompts=suite.free_prompts,
        judge=judge,
    )
    experiments = expand(suite, materials, base)
    planned = Bench(suite.name, experiments, model["model"] or "atlas", asking, text_hash, out)
    if dry_run:
        _show_plan(planned, base, as_json=as_json)
        return
    with progress_bars() as progress:
        records = run_bench(planned, base, progress=progress, notice=_notice)
    _show_records(records, out, as_json=as_json)


def _open(suite: Suite, **model: Any) -> Base:
    """The model; it may be dense if every method can edit that."""
    from moe_patch.methods import get_method

    dense = all(get_method(arm.method).edits_dense for arm in suite.all_arms)
    return open_model(**model, allow_dense=dense)


def _outline(model: str | None, dtype: str, **_: Any) -> Base:
    """The model without weights."""
    from moe_patch.planning import outline_model

    quiet_transformers()
    return outline_model(model, dtype_of(dtype)).base


def _held_out(base: Base, text: Path | None, most: int, *, read: bool) -> tuple[list[list[int]], str | None]:
    """Held-out text as tokens, unless it is not to be read, and the hash of what is taken of it."""
    from moe_patch.data.corpus import Corpus

    if text is None:
        return [], None
    corpus = Corpus.read(text)
    tokens = list(corpus.sequences(base.reader, max_tokens=most, length=_LENGTH)) if read else []
    return tokens, f"{corpus.hash}, {most} tokens"


def _changed(
    suite: Suite,
    *,
    methods: list[str] | None,
    facts: int | None,
    batch_size: int | None,
    recipe: str | None,
    layers: list[int] | None,
    corpus: tuple[str, ...] | None,
    settings: tuple[str, ...],
    **wholes: Any,
) -> Suite:
    """The suite with what is given on the command line; `wholes` are fields of the suite as they are."""
    from moe_patch.bench import Suite
    from moe_patch.methods import get_method
    from moe_patch.methods.overrides import option_names, parse_setting

    fields = suite.model_dump()
    arms = suite.all_arms if methods is None else suite.arms_with(methods)
    fields["arms"] = [arm.model_dump() | {"recipe": arm.recipe or recipe} for arm in arms]
    known = {name for arm in arms for name in option_names(get_method(arm.method).Options)}
    given = {} if layers is None else {"layers": layers, "layer": layers[-1]}
    given |= {} if corpus is None else {"corpus": list(corpus)}
    own = {name: value for name, value in (fields["options"] | given).items() if name in known}
    fields["options"] = own | dict(map(parse_setting, settings))
    fields["sweep"] = {name: values for name, values in fields["sweep"].items() if name in known}
    several = {"facts": facts, "batch_sizes": batch_size}
    fields |= {name: [value] for name, value in several.items() if value is not None}
    fields |= {name: value for name, value in wholes.items() if value is not None}
    return _checked(Suite, fields)


def _checked(schema: type[Suite], fields: dict[str, Any]) -> Suite:
    from pydantic import ValidationError

    from moe_patch.errors import ConfigError
    from moe_patch.io.strict_json import first_complaint

    try:
        return schema.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(f"the options of the bench: {first_complaint(error)}") from error


def _notice(title: str, record: RunRecord | None) -> None:
    """Say on standard error what is run, and what came of it."""
    if record is None:
        return
    said = f"failed: {record.error}" if record.error else f"built in {record.seconds.get('build', 0):.1f} s"
    say(f"{title}: {said}", err=True)


def _show_plan(planned: Bench, base: Any, *, as_json: bool) -> None:
    """Print what would be run, and what is finished."""
    from moe_patch.bench.runner import finished

    rows = []
    for experiment in planned.experiments:
        path, _ = planned.path(experiment, base)
        rows.append(
            {
                "arm": experiment.arm,
                "method": experiment.method,
                "data": experiment.data,
                "facts": len(experiment.facts),
                "mode": experiment.mode,
                "batch_size": experiment.batch_size,
                "seed": experiment.seed,
                "options": dict(experiment.given),
                "file": str(path),
                "done": finished(path, None) is not None,
            }
        )
    if as_json:
        print_json({"suite": planned.suite, "runs": rows})
        return
    columns = ("arm", "method", "data", "facts", "mode", "batch_size", "seed", "done")
    table = plain_table(
        f"Runs of {planned.suite} ({len(rows)})", columns, right=("facts", "batch_size", "seed")
    )
    for row in rows:
        table.add_row(*("all" if row[name] is None else str(row[name]) for name in columns[:-1]), _yes(row))
    print_tables(table)


def _yes(row: dict[str, Any]) -> str:
    return "yes" if row["done"] else ""


def _show_records(records: list[RunRecord], out: Path, *, as_json: bool) -> None:
    """Print the scores of all runs."""
    from moe_patch.bench.report import RunSet, summary_table

    failed = [record for record in records if record.status == "failed"]
    if as_json:
        rows = RunSet.of(str(out), records).to_json()
        print_json({"out": str(out), "done": len(records) - len(failed), "failed": len(failed)} | rows)
        return
    print_tables(terminal_table(summary_table(RunSet.of(str(out), records))))
    say(*(f"{record.arm}: failed: {record.error}" for record in failed))
    done = f"{len(records) - len(failed)} of {len(records)} runs are done"
    say(f"{out}: {done}; moe-patch report {out} shows them")

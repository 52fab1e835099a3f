"""All experiments of a suite, one after the other; what is finished is not run again."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from moe_patch.base.model import Base
from moe_patch.bench.experiments import Experiment
from moe_patch.bench.record import (
    FORMAT,
    RunRecord,
    make_folder,
    read_record,
    record_path,
    run_key,
    write_record,
)
from moe_patch.bench.run import Asking, measure_run
from moe_patch.errors import ConfigError, JudgeError, ModelError, MoePatchError, StatisticsError
from moe_patch.evaluation import BaselineMemory
from moe_patch.io.installed import installed_versions
from moe_patch.io.known import known_sha256
from moe_patch.methods import get_method
from moe_patch.methods.corpus_option import map_sources
from moe_patch.progress import Progress
from moe_patch.tuning import settle
from moe_patch.tuning.choice import TUNED_RECIPE

logger = logging.getLogger(__name__)

_TOOLS = ("moe-patch", "torch", "transformers", "peft")

Notice = Callable[[str, RunRecord | None], None]
"""Called with the title of an experiment: before it runs with no record, and afterwards with its record."""


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """What is run, and where to."""

    suite: str  # its name
    experiments: list[Experiment]
    model: str  # as it was asked for
    asking: Asking
    text_hash: str | None  # of the held-out text
    out: Path

    def path(self, experiment: Experiment, base: Base) -> tuple[Path, str]:
        """The file of an experiment's record, and its key. The base may have no weights."""
        key = run_key(
            {
                "model": self.model,
                "arm": experiment.arm,
                "method": experiment.method,
                "recipe": experiment.recipe,
                "given": _as_read(dict(experiment.given)),
                "options": _as_read(_settled(experiment, base)),
                "facts": experiment.facts_hash,
                "mode": experiment.mode,
                "seed": experiment.seed,
                "asked": self.asking.asked,
                "free_prompts": self.asking.free_prompts,
                "checkpoints": self.asking.checkpoints and list(self.asking.checkpoints),
                "buckets": self.asking.buckets,
                "text": self.text_hash,
                **self.asking.judged_by,
            }
        )
        name = (
            f"{experiment.arm} {experiment.data} {len(experiment.facts)} {experiment.mode} "
            f"{experiment.batch_size or 'all'} seed{experiment.seed}"
        )
        return record_path(self.out, name, key), key


def run_bench(
    bench: Bench, base: Base, *, progress: Progress | None = None, notice: Notice | None = None
) -> list[RunRecord]:
    """Run what is not finished, and return all records in the order of the experiments.

    An experiment that fails for a reason that can be named is recorded with it, and the others go on. It is
    tried again by the next call.

    Args:
        bench: what to run.
        base: the bare model, which is left as it was.
        progress: called with stages.
        notice: called before and after each run.

    Raises:
        OutputError: a record cannot be written.
        ConfigError: a record in the folder cannot be read.
        JudgeError: the judge of what is written freely fails.
    """
    make_folder(bench.out)
    root = base.fingerprint([], progress).root
    records, memory = [], BaselineMemory()
    for experiment in bench.experiments:
        path, key = bench.path(experiment, base)
        record = finished(path, root)
        if record is None:
            if notice is not None:
                notice(experiment.title, None)
            record = write_record(path, _run(bench, base, root, experiment, key, progress, memory))
            if notice is not None:
                notice(experiment.title, record)
        records.append(record)
    return records


def finished(path: Path, root: str | None) -> RunRecord | None:
    """The record of a run that is done on the base with this fingerprint's root; None if there is none.

    Args:
        path: where it would be.
        root: None if the weights are not read: then any base's will do.

    Raises:
        ConfigError: the file is no record.
    """
    if not path.exists():
        return None
    record = read_record(path)
    return record if record.status == "done" and root in (None, record.base.root) else None


def _run(
    bench: Bench,
    base: Base,
    root: str,
    experiment: Experiment,
    key: str,
    progress: Progress | None,
    memory: BaselineMemory,
) -> dict[str, Any]:
    record = _outline(bench, base, root, experiment, key)
    try:
        return record | measure_run(base, experiment, bench.asking, progress, memory)
    except JudgeError:  # the next arm would ask the same judge
        raise
    except MoePatchError as error:
        logger.warning("%s failed: %s", experiment.title, error)
        return record | {"status": "failed", "error": str(error)}


def _outline(bench: Bench, base: Base, root: str, experiment: Experiment, key: str) -> dict[str, Any]:
    """The record without figures."""
    method = get_method(experiment.method)
    return {
        "format": FORMAT,
        "key": key,
        "status": "done",
        "suite": bench.suite,
        "arm": experiment.arm,
        "method": experiment.method,
        "kind": method.kind,
        "rival": method.rival,
        "mode": experiment.mode,
        "batch_size": experiment.batch_size,
        "seed": experiment.seed,
        "varied": dict(experiment.varied),
        "data": {
            "name": experiment.data,
            "records": experiment.facts.schema,
            "facts": len(experiment.facts),
            "hash": experiment.facts_hash,
        },
        "base": {
            "name": base.name,
            "root": root,
            "dtype": str(base.model.dtype).removeprefix("torch."),
            "device": str(base.device),
            "layers": len(base.layers),
            "experts": max((layer.num_experts for layer in base.layers.values()), default=0),
        },
        "config": {"recipe": experiment.recipe, "given": dict(experiment.given)},
        "versions": installed_versions(*_TOOLS) | {"cores": str(os.cpu_count() or 1)},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _as_read(options: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Options with a hash of preserved text for its path, or the path where there is nothing to read.

    The run itself raises what is wrong with the text, and records it.
    """
    if "corpus" not in options:
        return options
    try:
        content = map_sources(options["corpus"], lambda source: source.by_content(known_sha256))
    except (ConfigError, ModelError, StatisticsError):
        return options
    return options | {"corpus": content}


def _settled(experiment: Experiment, base: Base) -> dict[str, JsonValue]:
    """The options, as far as they follow without weights; empty if they do not."""
    if experiment.recipe == TUNED_RECIPE:
        return {}
    try:
        choice = settle(base, get_method(experiment.method), given=experiment.given, recipe=experiment.recipe)
    except ConfigError:  # which the run itself raises again, and records
        return {}
    return choice.options.model_dump(mode="json")

"""General ability before and after a patch, by the tasks of lm-evaluation-harness.

The harness is an extra, and is imported when tasks are measured. Its data come from the Hub.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from moe_patch.apply import Mode, apply
from moe_patch.base.model import Base
from moe_patch.errors import ConfigError, EvaluationError
from moe_patch.evaluation.metrics import Setting
from moe_patch.io.shipped import shipped_folder
from moe_patch.patch import Patch

INSTALL = "pip install 'moe-patch[lm-eval]'"


@dataclass(frozen=True, slots=True)
class TaskScore:
    """One metric of one task, before and after."""

    task: str
    metric: str  # as the harness names it, with its filter unless that is "none"
    before: float
    after: float
    stderr_before: float | None  # None if the harness gives none
    stderr_after: float | None
    n: int  # how many samples


@dataclass(frozen=True, slots=True)
class TaskReport:
    """The scores of some tasks."""

    harness: str  # its release
    scores: tuple[TaskScore, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data, in the harness's own units."""
        return {"harness": self.harness, "scores": [asdict(score) for score in self.scores]}

    def table(self) -> Table:
        """A row for each metric."""
        title = f"General ability, by lm-evaluation-harness {self.harness}, with standard errors"
        table = Table(title=title, title_justify="left", header_style="bold")
        table.add_column("task")
        table.add_column("metric")
        for column in ("patched", "base", "samples"):
            table.add_column(column, justify="right")
        for each in self.scores:
            after, before = (each.after, each.stderr_after), (each.before, each.stderr_before)
            table.add_row(each.task, each.metric, _shown(*after), _shown(*before), str(each.n))
        return table


def measure_tasks(
    base: Base,
    patch: Patch,
    tasks: Sequence[str],
    setting: Setting | None = None,
    *,
    mode: Mode = "merge",
    allow_large: bool = False,
    limit: int | None = None,
    folder: Path | None = None,
) -> TaskReport:
    """Run tasks with the base and with the patch on it. No checkpoint is written.

    Args:
        base: the model, without a patch.
        patch: the patch to measure.
        tasks: names of tasks, groups and suites.
        setting: how prompts are run.
        mode: how the patch is applied.
        allow_large: as in `moe_patch.apply`.
        limit: samples of a task; None for all.
        folder: of further tasks, as the harness reads them.

    Raises:
        ConfigError: the harness is not installed, or knows no such task.
        EvaluationError: a task's data cannot be had, a task fails, or the patch changes prompts alone.
        WrongBase: the patch was built for another base.
    """
    if patch.kind == "prompt":
        raise EvaluationError(
            "tasks ask the model in their own prompts, and the patch changes prompts alone: leave tasks out"
        )
    setting, names = setting or Setting(), expand_suites(tasks)
    try:
        from moe_patch.evaluation.harness import Harness  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise ConfigError(f"tasks need the package lm_eval: {INSTALL}") from error
    harness = Harness(base, names, setting, [shipped_tasks(), *([folder] if folder else [])], limit)
    before = harness.run("base: tasks")
    with apply(base, patch, mode=mode, allow_large=allow_large, progress=setting.progress):
        after = harness.run("patched: tasks")
    return TaskReport(harness.release, tuple(_joined(before, after)))


def suites() -> dict[str, list[str]]:
    """The suites that ship, by name."""
    return {name: list(tasks) for name, tasks in _suites().items()}


def expand_suites(tasks: Sequence[str]) -> list[str]:
    """Names of tasks, once each: those of a suite stand in its place.

    Raises:
        ConfigError: there are none.
    """
    names = list(dict.fromkeys(name for task in tasks for name in _suites().get(task, [task])))
    if not names:
        raise ConfigError("name at least one task")
    return names


def shipped_tasks() -> Path:
    """The folder of the tasks and suites that ship."""
    return shipped_folder() / "lm_eval"


@cache
def _suites() -> dict[str, list[str]]:
    found: dict[str, list[str]] = yaml.safe_load(
        (shipped_tasks() / "suites.yaml").read_text(encoding="utf-8")
    )
    return found


Measured = dict[tuple[str, str], tuple[float, float | None, int]]
"""Value, standard error and number of samples, by task and metric."""


def _joined(before: Measured, after: Measured) -> list[TaskScore]:
    return [
        TaskScore(task, metric, value, after[task, metric][0], error, after[task, metric][1], n)
        for (task, metric), (value, error, n) in before.items()
    ]


def _shown(value: float, error: float | None) -> str:
    return f"{value:.4g}" if error is None else f"{value:.4g} ± {error:.2g}"

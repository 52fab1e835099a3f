"""A live model, with whatever patch is on it, as a model of lm-evaluation-harness."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from torch import Tensor

from moe_patch.base.decoding import end_tokens, without_defaults
from moe_patch.base.logits import finite_logits
from moe_patch.base.model import Base
from moe_patch.errors import ConfigError, EvaluationError
from moe_patch.evaluation.metrics import Setting
from moe_patch.evaluation.tasks import Measured

_BOOTSTRAPS = 1000  # resamples for standard errors that have no formula
_ALIAS, _SAMPLES = "alias", "sample_len"


class LiveModel(HFLM):  # type: ignore[misc]  # the harness has no types
    """The base's model as it is at each call, so that a patch may go on and off between two runs.

    It is read by a copy of the tokenizer, since the harness may give it a token to pad with. Replies follow
    the logits alone and not the checkpoint's generation settings.
    """

    def __init__(self, base: Base, batch_size: int) -> None:
        tokenizer = copy.deepcopy(base.tokenizer)
        super().__init__(base.model, backend="causal", tokenizer=tokenizer, batch_size=batch_size)
        self._base = base
        self._device = base.device  # where the embedding is, if layers are on several devices

    def _model_generate(
        self, context: Tensor, max_length: int, stop: list[str], **generation_kwargs: Any
    ) -> Tensor:
        ends = sorted(end_tokens(self._base)) or None
        with without_defaults(self._base.model), finite_logits(self._base):
            written: Tensor = super()._model_generate(
                context, max_length, stop, **{"eos_token_id": ends} | generation_kwargs
            )
        return written


class Harness:
    """Some tasks, ready to be run with a base as often as asked.

    Raises:
        ConfigError: the harness knows no such task.
    """

    def __init__(
        self, base: Base, tasks: Sequence[str], setting: Setting, folders: Sequence[Path], limit: int | None
    ) -> None:
        self.release = version("lm_eval")
        self._manager = _own_tasks(folders)
        if _unknown(self._manager, tasks):
            self._manager = _all_tasks(tuple(folders))
        if unknown := _unknown(self._manager, tasks):
            raise ConfigError(
                f"lm-evaluation-harness {self.release} has no task {unknown[0]!r}: "
                "`lm_eval ls tasks` lists its tasks"
            )
        self._tasks, self._setting, self._limit = list(tasks), setting, limit
        self._model = LiveModel(base, setting.batch_size)

    def run(self, stage: str) -> Measured:
        """The scores of the model as it is now, task by task.

        Raises:
            EvaluationError: a task's data cannot be had, or the task fails.
        """
        found: Measured = {}
        for number, task in enumerate(self._tasks):
            found |= self._run_task(task)
            if self._setting.progress is not None:
                self._setting.progress(stage, number + 1, len(self._tasks))
        return found

    def _run_task(self, task: str) -> Measured:
        try:
            whole = simple_evaluate(
                self._model,
                tasks=[task],
                task_manager=self._manager,
                limit=self._limit,
                log_samples=False,
                bootstrap_iters=_BOOTSTRAPS,
                apply_chat_template=self._setting.chat,
            )
        except (OSError, ValueError, LookupError, TypeError, AssertionError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise EvaluationError(f"the task {task} of lm-evaluation-harness: {reason}") from error
        return _measured(whole)


def _own_tasks(folders: Sequence[Path]) -> TaskManager:
    return TaskManager(include_path=[str(folder) for folder in folders], include_defaults=False)


@cache
def _all_tasks(folders: tuple[Path, ...]) -> TaskManager:
    """Also those of the harness: thousands of files, which take seconds to read."""
    return TaskManager(include_path=[str(folder) for folder in folders])


def _unknown(manager: TaskManager, tasks: Sequence[str]) -> list[str]:
    return [task for task in tasks if not manager.match_tasks([task])]


def _measured(whole: Any) -> Measured:
    """The numbers of a run: the harness names them "acc,none" and "acc_stderr,none"."""
    found: Measured = {}
    for task, values in whole["results"].items():
        counts = whole["n-samples"].get(task, {})
        n = int(values.get(_SAMPLES, counts.get("effective", 0)))
        for name, value in values.items():
            metric, comma, filtered = name.partition(",")
            if comma and not metric.endswith("_stderr") and isinstance(value, int | float):
                error = values.get(f"{metric}_stderr,{filtered}")
                shown = metric if filtered == "none" else f"{metric} ({filtered})"
                found[task, shown] = float(value), float(error) if isinstance(error, int | float) else None, n
    return found

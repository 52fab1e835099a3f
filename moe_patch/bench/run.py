"""One experiment: built, evaluated and measured."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from moe_patch.base.model import Base
from moe_patch.bench.along import Along, at_batch_ends, some_counts
from moe_patch.bench.buckets import frequency_buckets, scores_by_bucket
from moe_patch.bench.experiments import Experiment
from moe_patch.bench.memory import Memory, PeakMemory
from moe_patch.bench.pooled import pool
from moe_patch.bench.stopwatch import REST, Stopwatch
from moe_patch.bench.texts import FACTS, Shown, before_and_after
from moe_patch.data.fact_file import FactFile
from moe_patch.evaluation import BaselineMemory, EvaluationReport, Setting, evaluate
from moe_patch.evaluation.card.cost import cost_of
from moe_patch.evaluation.drift import Drift, measure_drift
from moe_patch.evaluation.free import FreeSetting
from moe_patch.evaluation.free.judge import Judge
from moe_patch.evaluation.free.questions import MOST
from moe_patch.methods import Method, MethodOptions, get_method
from moe_patch.patch import Patch, save
from moe_patch.progress import Progress
from moe_patch.tuning import Choice, choose

_DRIFTS = 10
"""Of single edits, this many patches at most are run over the held-out text."""


@dataclass(frozen=True, slots=True)
class Asking:
    """How runs are measured; the same for all of a bench."""

    batch_size: int = 64  # prompts in one forward pass
    text: Sequence[Sequence[int]] = ()  # held-out text as tokens; perplexity is measured on it
    checkpoints: Sequence[int] | None = None  # numbers of edited facts after which to ask
    asked: int = 200
    buckets: int | None = None
    free_prompts: int = MOST  # of a kind, after which the model writes freely
    judge: Judge | None = None  # of what it writes

    @property
    def judged_by(self) -> dict[str, JsonValue]:
        """The judge, as keys and records name it; empty without one."""
        return {} if self.judge is None else {"judge": {"url": self.judge.url, "model": self.judge.model}}


@dataclass(slots=True)
class _Measured:
    """What is known of the patches of one run so far; those of single edits are several."""

    base: Base
    experiment: Experiment
    asking: Asking
    progress: Progress | None = None
    memory: BaselineMemory | None = None
    reports: list[dict[str, Any]] = field(default_factory=list)
    drifts: list[Drift] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    experts: list[int] = field(default_factory=list)
    ranks: list[int | None] = field(default_factory=list)
    texts: list[Shown] = field(default_factory=list)
    convergence: dict[str, list[list[float]]] = field(default_factory=dict)
    buckets: list[dict[str, Any]] = field(default_factory=list)

    def add(self, patch: Patch, facts: FactFile) -> None:
        """Evaluate one patch on its facts, and measure what it costs."""
        rewrite = get_method(self.experiment.method).rewriter(self.base, patch)
        setting = Setting(self.asking.batch_size, patch.chat, self.progress, rewrite=rewrite)
        report: EvaluationReport = evaluate(
            self.base,
            patch,
            facts,
            allow_large=True,
            free=FreeSetting(most=self.asking.free_prompts, judge=self.asking.judge),
            setting=setting,
            memory=self.memory,
        )
        self.reports.append(report.to_json())
        if self.asking.text and patch.kind != "prompt" and len(self.drifts) < _DRIFTS:
            self.drifts.append(measure_drift(self.base, patch, self.asking.text, self.progress))
        size = size_on_disk(patch)
        cost = cost_of(patch, None, size)
        self.bytes.append(size)
        self.experts.append(cost.experts)
        self.ranks.append(cost.rank)
        if len(self.texts) < FACTS:
            self.texts += before_and_after(self.base, patch, facts, setting)
        if self.experiment.mode != "single":
            self.convergence = _objectives(patch)
            self._add_buckets(patch, facts, setting)

    def _add_buckets(self, patch: Patch, facts: FactFile, setting: Setting) -> None:
        if self.asking.buckets is None:
            return
        layer = min(patch.layers or patch.base.experts or self.base.layers, default=0)
        parts = frequency_buckets(self.base, facts, layer, self.asking.buckets, patch.chat)
        self.buckets = scores_by_bucket(self.base, patch, parts, setting)

    def fields(self) -> dict[str, Any]:
        """What was found, as fields of a record; that of single edits is pooled."""
        return {
            "evaluation": pool(self.reports) if len(self.reports) > 1 else self.reports[0],
            "size": {
                "bytes": _mean(self.bytes),
                "experts": _mean(self.experts),
                "rank": None if None in self.ranks else _mean([rank or 0 for rank in self.ranks]),
            },
            "perplexity": pool([drift.to_json() for drift in self.drifts]),
            "buckets": self.buckets,
            "convergence": self.convergence,
            "texts": [shown.to_json() for shown in self.texts],
        }


def measure_run(
    base: Base,
    experiment: Experiment,
    asking: Asking,
    progress: Progress | None = None,
    memory: BaselineMemory | None = None,
) -> dict[str, Any]:
    """The figures of one experiment, as the fields of a record.

    Args:
        base: the bare model, which is left as it was.
        experiment: what to build.
        asking: how to measure.
        progress: called with stages.
        memory: given to several runs, lets those of the same facts measure the base once.

    Raises:
        MoePatchError: as for the choice of options, the method's build, and the evaluation.
    """
    method = get_method(experiment.method)
    started = time.perf_counter()
    choice = choose(
        base,
        experiment.facts,
        method,
        given=experiment.given,
        recipe=experiment.recipe,
        progress=progress,
    )
    chosen = time.perf_counter() - started
    found, watch = _Measured(base, experiment, asking, progress, memory), Stopwatch()
    along = _along(base, experiment, choice.options, asking)
    watch.skip()
    building = evaluating = 0.0
    peaks: list[Memory] = []
    for facts in _parts(experiment):
        began = time.perf_counter()
        patch, peak = _build(base, method, facts, choice.options, _together(watch, along, progress))
        built = time.perf_counter()
        building += built - began
        peaks.append(peak)
        watch(REST, 1, 1)
        found.add(patch, facts)
        evaluating += time.perf_counter() - built
        watch.skip()
    building -= along.seconds if along is not None else 0.0
    return found.fields() | {
        "config": _config(experiment, choice, asking),
        "curve": along.curve if along is not None else [],
        "seconds": _seconds(watch, choosing=chosen, build=building, evaluation=evaluating),
        "memory": _most(peaks),
    }


def _parts(experiment: Experiment) -> Iterator[FactFile]:
    """The facts of each build: all of them, or one after the other in single edits."""
    if experiment.mode != "single":
        yield experiment.facts
        return
    for number in range(len(experiment.facts)):
        yield experiment.facts[number : number + 1]


def _build(
    base: Base, method: Method[Any], facts: FactFile, options: MethodOptions, progress: Progress
) -> tuple[Patch, Memory]:
    with PeakMemory() as watched:
        patch = method.build(base, facts, options, progress)
    return patch, watched.found


def _along(base: Base, experiment: Experiment, options: MethodOptions, asking: Asking) -> Along | None:
    """What watches a sequential build; None for another, or for a method without batches."""
    size = experiment.batch_size
    if not experiment.mode.startswith("sequential") or size is None or "batch_size" not in experiment.given:
        return None
    facts, total = experiment.facts, len(experiment.facts)
    counts = asking.checkpoints if asking.checkpoints is not None else some_counts(total, size)
    return Along(
        base,
        facts,
        at=at_batch_ends(counts, total, size),
        asked=asking.asked,
        setting=Setting(asking.batch_size),
        lowest=_lowest(base, options),
    )


def _lowest(base: Base, options: MethodOptions) -> int:
    """The lowest layer that the options edit; the lowest of the model if they do not say."""
    layer = getattr(options, "layer", None)
    layers = getattr(options, "layers", None) or (() if layer is None else (layer,))
    return int(min(layers, default=min(base.layers, default=0)))


def _together(watch: Stopwatch, along: Along | None, progress: Progress | None) -> Progress:
    """A progress function for all who listen; what measuring takes counts for no stage."""

    def report(stage: str, done: int, total: int) -> None:
        watch(stage, done, total)
        if along is not None:
            along(stage, done, total)
            watch.skip()
        if progress is not None:
            progress(stage, done, total)

    return report


def _config(experiment: Experiment, choice: Choice, asking: Asking) -> dict[str, JsonValue]:
    """What was asked for, and what followed."""
    return {
        "recipe": experiment.recipe,
        "given": dict(experiment.given),
        "borrowed": list(experiment.borrowed),
        "options": choice.options.model_dump(mode="json"),
        "sources": choice.to_json(),
        "batches": "batch_size" in experiment.given,
        "prompts_per_pass": asking.batch_size,
        "asked": asking.asked,
        "free_prompts": asking.free_prompts,
        "checkpoints": None if asking.checkpoints is None else list(asking.checkpoints),
        "text_tokens": sum(map(len, asking.text)),
        **asking.judged_by,
    }


def _seconds(watch: Stopwatch, **wholes: float) -> dict[str, float]:
    """The stages' seconds, those that took none left out, and the wholes."""
    stages = {stage: round(seconds, 3) for stage, seconds in watch.seconds.items()}
    return {stage: seconds for stage, seconds in stages.items() if seconds} | {
        name: round(seconds, 3) for name, seconds in wholes.items()
    }


def _objectives(patch: Patch) -> dict[str, list[list[float]]]:
    """The objective after each pass of an iterative solver, by layer and batch; empty for others."""
    found = patch.hyperparameters.get("objectives")
    return {} if not isinstance(found, dict) else {str(layer): _rows(rows) for layer, rows in found.items()}


def _rows(batches: Any) -> list[list[float]]:
    return [[float(value) for value in batch] for batch in batches]


def _most(peaks: Sequence[Memory]) -> dict[str, int | None]:
    return max(peaks, key=lambda peak: peak.host_peak - peak.host_before).to_json()


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values)


def size_on_disk(patch: Patch) -> int:
    """Bytes of the patch's file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "patch.safetensors"
        save(patch, path)
        return path.stat().st_size

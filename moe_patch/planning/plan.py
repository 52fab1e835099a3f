"""The plan of a build: seconds and bytes of each stage, where the layers lie, and what to change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from rich.table import Table

from moe_patch.io.html_tables import Tabled
from moe_patch.io.wording import counted
from moe_patch.planning.machine import Machine
from moe_patch.planning.outline import ModelOutline
from moe_patch.planning.placement import GIB, Gpus, Placement, place
from moe_patch.planning.resources import Resources
from moe_patch.planning.stages import Counted, Job, Stage, count, patch_bytes

LIBRARIES = 64 * 2**20
"""Bytes that torch and transformers take in main memory once a model runs, beside it."""


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage."""

    name: str
    seconds: float
    bytes: int  # most at a time, weights included


@dataclass(frozen=True, slots=True)
class Plan(Tabled):
    """What a build will take."""

    model: ModelOutline
    job: Job
    machine: str
    stages: tuple[StagePlan, ...]
    placement: Placement
    options: tuple[tuple[str, str], ...]  # what to call the build with, each with its reason
    notes: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def peak(self) -> int:
        """Most bytes at a time, weights included."""
        return max(stage.bytes for stage in self.stages)

    def to_json(self) -> dict[str, Any]:
        """Plain data, in seconds and bytes."""
        return {
            "model": self.model.name,
            "model_type": self.model.model_type,
            "parameters": self.model.parameters,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "weights": self.model.bytes,
            "facts": self.job.facts,
            "layers": list(self.job.layers),
            "machine": self.machine,
            "stages": [
                {"stage": stage.name, "seconds": stage.seconds, "bytes": stage.bytes} for stage in self.stages
            ],
            "seconds": self.seconds,
            "peak": self.peak,
            "patch_bytes": patch_bytes(self.model, self.job),
            "device_map": dict(self.placement.layers),
            "fits": self.placement.fits,
            "options": [{"option": option, "why": why} for option, why in self.options],
            "notes": list(self.notes),
        }

    def tables(self) -> list[Table]:
        """The stages, then the options."""
        stages = Table(title=counted(self.job.facts, "fact"), title_justify="left", header_style="bold")
        stages.add_column("stage")
        for column in ("time", "memory"):
            stages.add_column(column, justify="right")
        for stage in self.stages:
            stages.add_row(stage.name, duration(stage.seconds), size(stage.bytes))
        stages.add_row("all", duration(self.seconds), size(self.peak), style="bold")
        if not self.options:
            return [stages]
        options = Table(title="Options", title_justify="left", header_style="bold")
        options.add_column("option")
        options.add_column("why")
        for option, why in self.options:
            options.add_row(option, why)
        return [stages, options]

    def lines(self) -> list[str]:
        """What tables do not say, in sentences."""
        lie = ", ".join(f"{number} on {_device(name)}" for name, number in self.placement.layers.items())
        weights = f"{_count(self.model.parameters)} parameters, {size(self.model.bytes)}"
        return [
            f"{self.model.name} ({self.model.model_type}, {weights}) on {self.machine}. Layers: {lie}.",
            f"The patch takes about {size(patch_bytes(self.model, self.job))}.",
            *self.notes,
        ]


def make_plan(model: ModelOutline, job: Job, resources: Resources) -> Plan:
    """The plan of a job. Where a search would not fit beside the weights, fewer facts go through a pass."""
    gpus, ram = resources.gpus, resources.ram
    fitted, options = _fitted(model, job, gpus, ram)
    counted = count(model, fitted)
    placement = place(model, gpus, ram, _reserve(counted))
    return Plan(
        model=model,
        job=fitted,
        machine=resources.machine.name,
        stages=_stage_plans(counted, resources.machine, 0 if gpus else LIBRARIES),
        placement=placement,
        options=(*_device_options(gpus, placement), *options),
        notes=(*resources.notes, *_notes(fitted), *_warnings(model, counted, placement, gpus, ram)),
    )


def _stage_plans(counted: Counted, machine: Machine, kept: int) -> tuple[StagePlan, ...]:
    """The stages, of which each also holds what was kept before it."""
    plans = []
    for stage in counted.stages:
        seconds = _seconds(stage, counted.model, machine)
        plans.append(StagePlan(stage.name, seconds, counted.model.bytes + kept + stage.most(counted.model)))
        kept += stage.kept
    return tuple(plans)


def _seconds(stage: Stage, model: ModelOutline, machine: Machine) -> float:
    passes = sum(machine.seconds(work, model) for work in stage.works)
    decomposed = sum(number * machine.decompose(size) for number, size in stage.decompositions if number)
    moved = machine.read(stage.read) + machine.hash(stage.hashed)
    return passes + decomposed + moved + machine.algebra(stage.algebra)


def _reserve(counted: Counted) -> int:
    """Most bytes beside the weights."""
    kept = most = 0
    for stage in counted.stages:
        most = max(most, kept + stage.most(counted.model))
        kept += stage.kept
    return most


def _fitted(model: ModelOutline, job: Job, gpus: Gpus | None, ram: int) -> tuple[Job, list[tuple[str, str]]]:
    """The job with as many facts to a pass as leave room for the weights, and what to call it with."""
    memory = ram if gpus is None else gpus.memory
    fitted = job
    while fitted.facts_per_pass > 1 and _reserve(count(model, fitted)) > memory / 4:
        fitted = replace(fitted, facts_per_pass=fitted.facts_per_pass // 2)
    if fitted == job:
        return job, []
    option = f"--set targets.facts_per_pass={fitted.facts_per_pass}"
    return fitted, [
        (option, f"a search for {counted(job.facts_per_pass, 'fact')} takes over a quarter of the memory")
    ]


def _notes(job: Job) -> Iterator[str]:
    """What was assumed."""
    if job.trace:
        layers = ", ".join(map(str, job.layers))
        yield f"The edit layers will be chosen by tracing; layer {layers} is taken for now."
    if job.own_text:
        yield f"The base writes its own text until it settles, at most {job.corpus_tokens:,} tokens."
    yield f"Searches for target values are taken to need {job.steps} steps."


def _device_options(gpus: Gpus | None, placement: Placement) -> Iterator[tuple[str, str]]:
    if gpus is not None:
        where = ", ".join(_device(name) for name in placement.layers)
        yield "--device-map auto", f"layers lie on {where}"
    if "disk" in placement.layers:
        yield "--offload-folder FOLDER", "not all layers fit in memory"


def _warnings(
    model: ModelOutline, counted: Counted, placement: Placement, gpus: Gpus | None, ram: int
) -> Iterator[str]:
    if placement.fits:
        return
    need = model.bytes + _reserve(counted)
    if gpus is None:
        yield f"{size(need)} are needed, and there are {size(ram)}: layers on the disk make every pass slow."
    else:
        room = next(iter(placement.room.values()))
        enough = f"{-(-model.bytes // room)} such GPUs would hold it" if room else "Larger GPUs would hold it"
        yield f"Weights and passes take {size(need)}, more than there is: layers wait elsewhere. {enough}."
    if model.dtype.itemsize > 2:
        yield "--dtype bfloat16 halves the weights."


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def size(amount: float) -> str:
    """Bytes as people say them."""
    if amount >= GIB / 10:
        return f"{amount / GIB:.1f} GiB"
    return f"{amount / 2**20:.1f} MiB" if amount >= 2**20 / 10 else f"{amount / 2**10:.1f} KiB"


def _count(number: int) -> str:
    return f"{number / 1e9:.1f}B" if number >= 1e9 else f"{number / 1e6:.0f}M"


def _device(name: str) -> str:
    return {"cpu": "the CPU", "disk": "the disk"}.get(name, f"GPU {name}")

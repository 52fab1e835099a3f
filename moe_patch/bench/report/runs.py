"""Runs in order: those of several seeds are a group, and the groups on the same facts are a section."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from moe_patch.bench.record import RunRecord, read_record, read_records
from moe_patch.bench.report.figures import Figure, figures_of, over_seeds

Setting = tuple[str, str, int, str, int | None]
"""Model, facts, how many of them, mode, and batch size."""


def setting_of(record: RunRecord) -> Setting:
    """What a run has in common with those that it can be compared with."""
    return (record.base.name, record.data.name, record.data.facts, record.mode, record.batch_size)


@dataclass(frozen=True, eq=False)
class Group:
    """One arm in one setting: its runs with several seeds."""

    records: tuple[RunRecord, ...]  # at least one, all of them done

    @property
    def first(self) -> RunRecord:
        """The run of the first seed."""
        return self.records[0]

    @property
    def arm(self) -> str:
        """The arm's name."""
        return self.first.arm

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """All figures, over the seeds."""
        return over_seeds([figures_of(record) for record in self.records])

    def value(self, name: str) -> float | None:
        """The value of a figure; None if it was not measured."""
        found = self.figures.get(name)
        return None if found is None else found.value

    def to_json(self) -> dict[str, Any]:
        """What was run, and all figures."""
        model, data, facts, mode, batch_size = setting_of(self.first)
        return {
            "arm": self.arm,
            "method": self.first.method,
            "rival": self.first.rival,
            "model": model,
            "data": data,
            "facts": facts,
            "mode": mode,
            "batch_size": batch_size,
            "seeds": [record.seed for record in self.records],
            "figures": {name: figure.to_json() for name, figure in self.figures.items()},
        }


@dataclass(frozen=True, eq=False)
class Section:
    """All arms in one setting."""

    setting: Setting
    groups: tuple[Group, ...]

    @property
    def title(self) -> str:
        """The setting in words."""
        model, data, facts, mode, batch_size = self.setting
        batch = f" of {batch_size}" if mode == "sequential-batch" else ""
        return f"{model}: {facts} facts of {data}, {mode}{batch}"


@dataclass(frozen=True, eq=False)
class RunSet:
    """Runs that are reported together."""

    label: str
    sections: tuple[Section, ...]
    failed: tuple[RunRecord, ...]
    records: tuple[RunRecord, ...]

    @classmethod
    def of(cls, label: str, records: Sequence[RunRecord]) -> RunSet:
        """Records in order: settings and arms as they come."""
        settings: dict[Setting, dict[str, list[RunRecord]]] = {}
        for record in records:
            if record.status == "done":
                arms = settings.setdefault(setting_of(record), {})
                arms.setdefault(record.arm, []).append(record)
        sections = tuple(
            Section(setting, tuple(Group(tuple(_by_seed(runs))) for runs in arms.values()))
            for setting, arms in settings.items()
        )
        failed = tuple(record for record in records if record.status == "failed")
        return cls(label, sections, failed, tuple(records))

    @property
    def groups(self) -> list[Group]:
        """All groups, section by section."""
        return [group for section in self.sections for group in section.groups]

    def to_json(self) -> dict[str, Any]:
        """All groups with their figures, and what failed."""
        return {
            "runs": [group.to_json() for group in self.groups],
            "errors": [
                {"arm": record.arm, "seed": record.seed, "error": record.error} for record in self.failed
            ],
        }


def _by_seed(records: Sequence[RunRecord]) -> list[RunRecord]:
    return sorted(records, key=lambda record: record.seed)


def read_run_set(path: Path) -> RunSet:
    """The runs of a folder, or the one in a file.

    Raises:
        ConfigError: there is none, or a file is no record of a run.
    """
    if path.is_dir():
        return RunSet.of(str(path), read_records(path))
    record = read_record(path)
    return RunSet.of(f"{path.absolute().parent.name}: {record.arm}, seed {record.seed}", [record])

"""Two sets of runs, figure by figure: the difference, and whether their intervals have a value in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moe_patch.bench.report.figures import Figure
from moe_patch.bench.report.runs import Group, RunSet, setting_of


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """The same experiment in both sets, or the two that are compared."""

    first: Group
    second: Group

    @property
    def title(self) -> str:
        """The arm, or both if they differ, and what it was run on."""
        _, data, facts, mode, _ = setting_of(self.first.first)
        arms = dict.fromkeys([self.first.arm, self.second.arm])
        return f"{' and '.join(arms)} ({facts} facts of {data}, {mode})"

    @property
    def figures(self) -> dict[str, tuple[Figure, Figure]]:
        """The figures that both have."""
        return {
            name: (figure, self.second.figures[name])
            for name, figure in self.first.figures.items()
            if name in self.second.figures
        }

    def to_json(self) -> dict[str, Any]:
        """The figures of both as plain data."""
        return {
            "title": self.title,
            "figures": {
                name: {
                    "first": a.to_json(),
                    "second": b.to_json(),
                    "difference": b.value - a.value,
                    "intervals_overlap": a.overlaps(b),
                }
                for name, (a, b) in self.figures.items()
            },
        }


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """What two sets of runs have in common, and what only one has."""

    first: RunSet
    second: RunSet
    pairs: tuple[Pair, ...]
    only_first: tuple[Group, ...]
    only_second: tuple[Group, ...]

    def to_json(self) -> dict[str, Any]:
        """All pairs, and the names of what is not compared."""
        return {
            "first": self.first.label,
            "second": self.second.label,
            "pairs": [pair.to_json() for pair in self.pairs],
            "only_first": [group.arm for group in self.only_first],
            "only_second": [group.arm for group in self.only_second],
        }


def compare(first: RunSet, second: RunSet) -> Comparison:
    """Compare experiments of the same arm, facts, mode and batch size; two single ones in any case.

    The model's name does not count, so that a method can be compared on two of them.
    """
    if len(first.groups) == len(second.groups) == 1:
        return Comparison(first, second, (Pair(first.groups[0], second.groups[0]),), (), ())
    others = {_key(group): group for group in reversed(second.groups)}
    pairs = tuple(Pair(group, others[_key(group)]) for group in first.groups if _key(group) in others)
    paired = {id(group) for pair in pairs for group in (pair.first, pair.second)}
    return Comparison(
        first,
        second,
        pairs,
        tuple(group for group in first.groups if id(group) not in paired),
        tuple(group for group in second.groups if id(group) not in paired),
    )


def _key(group: Group) -> tuple[str, str, int, str, int | None]:
    _, data, facts, mode, batch_size = setting_of(group.first)
    return group.arm, data, facts, mode, batch_size

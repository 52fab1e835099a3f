"""Checks of a stack: are its files sound, do its patches share a base, do their facts conflict?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from moe_patch.errors import MoePatchError, StackError
from moe_patch.stack.combine import Combined, combine_deltas
from moe_patch.stack.conflicts import Disturbance, FactShift, fact_shifts, find_disturbances
from moe_patch.stack.foundation import foundation_of
from moe_patch.stack.lockfile import Combine, Lock
from moe_patch.stack.members import Stacked, load_enabled, try_entries
from moe_patch.stack.overlap import find_overlaps

Level = Literal["refuse", "warn", "note"]

WARN, REFUSE = 0.25, 1.0
"""Limits on how far other patches may move a fact, as shares of the fact's own edit.

A quarter is well above noise and not yet harmful. At 1 the move is as large as the edit itself.
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """A result of a check. The user can allow conflicts, but not broken files."""

    level: Level
    text: str
    conflict: bool = False


@dataclass(frozen=True, slots=True)
class ShiftLimits:
    """A fact that is moved by `warn` or more gives a warning; by `refuse` or more, a refusal."""

    warn: float = WARN  # share of the fact's own edit
    refuse: float = REFUSE  # likewise


@dataclass(frozen=True, slots=True)
class StackCheck:
    """The findings, the worst first, and the figures behind them."""

    findings: tuple[Finding, ...]
    disturbances: tuple[Disturbance, ...] = ()
    fact_shifts: tuple[FactShift, ...] = ()

    @property
    def refused(self) -> bool:
        """Whether any finding is a refusal."""
        return any(finding.level == "refuse" for finding in self.findings)


def check_stack(
    lock: Lock, lock_path: Path, limits: ShiftLimits | None = None, *, allow_conflicts: bool = False
) -> StackCheck:
    """Check every file of a stack, and how the patches that are on go together.

    A file is refused if it is damaged, is not the locked one, or belongs to another base. Everything that
    `check_combined` refuses is refused too. Problems of a file are findings: they are never raised.
    """
    stacked, broken = try_entries(lock, lock_path)
    findings = [Finding("refuse", f"patch {number}: {error}") for number, error in sorted(broken.items())]
    if broken:
        return StackCheck((*findings, *_between(stacked, allow_conflicts)))
    try:
        combined = combine_deltas(stacked, lock.combine)
    except MoePatchError as error:
        return StackCheck(ordered([*_between(stacked, allow_conflicts), Finding("refuse", str(error))]))
    return check_combined(stacked, combined, lock.combine, limits, allow_conflicts=allow_conflicts)


def check_combined(
    stacked: Sequence[Stacked],
    combined: Combined | None,
    how: Combine,
    limits: ShiftLimits | None = None,
    *,
    allow_conflicts: bool = False,
) -> StackCheck:
    """Check whether patches go together, and how far each fact is moved once their deltas are combined.

    These are refused: patches that change prompts alone, two bypasses on one layer, contradictory facts, and
    facts that other patches move too far. With `allow_conflicts` they are warnings.

    Args:
        combined: the result of `combine_deltas` for `stacked`.
        how: the way in which they were combined.
    """
    findings = _between(stacked, allow_conflicts)
    if combined is None:
        return StackCheck(ordered(findings))
    deltas = [member for member in stacked if member.patch.kind == "delta"]
    try:
        pairs, shifts = find_disturbances(deltas), fact_shifts(deltas, combined.patch)
    except MoePatchError as error:
        return StackCheck(ordered([*findings, Finding("refuse", str(error))]))
    moved = [*_moved(pairs if how == "add" else (), shifts, limits or ShiftLimits())]
    findings += [allowed(finding) for finding in moved] if allow_conflicts else moved
    return StackCheck(ordered(findings), tuple(pairs), tuple(shifts))


def refuse_contradictions(lock: Lock, lock_path: Path) -> None:
    """Refuse a stack whose enabled patches contradict each other.

    Raises:
        StackError: two patches give different answers to one question.
        PatchError: a file is damaged, is not the locked one, or belongs to another base.
    """
    contradictions = [
        overlap for overlap in find_overlaps(load_enabled(lock, lock_path)) if overlap.contradicts
    ]
    if contradictions:
        more = f", and {len(contradictions) - 1} more like it" if len(contradictions) > 1 else ""
        raise StackError(f"contradictory facts: {contradictions[0]}{more}. Allow it with --allow-conflicts")


def _between(stacked: Sequence[Stacked], allow_conflicts: bool) -> list[Finding]:
    """The findings that need no figures."""
    found = [
        *_prompt_findings(stacked),
        *_bypass_findings(stacked),
        *_fact_findings(stacked),
        *foundation_findings(stacked),
    ]
    return [allowed(finding) for finding in found] if allow_conflicts else found


def _moved(
    pairs: Sequence[Disturbance], shifts: Sequence[FactShift], limits: ShiftLimits
) -> Iterator[Finding]:
    """Facts that are moved too far. Pairs matter for `add` only: a joint solve removes their interference."""
    yield from moved_by_pairs(pairs, limits)
    yield from moved_by_stack(shifts, limits)


def moved_by_pairs(pairs: Iterable[Disturbance], limits: ShiftLimits) -> Iterator[Finding]:
    """Facts that another patch alone moves too far."""
    for pair in pairs:
        text = f"{pair.by} moves {pair.fact!r} of {pair.disturbed}"
        yield from _too_far(pair.worst, text, pair.layer, limits)


def moved_by_stack(shifts: Iterable[FactShift], limits: ShiftLimits) -> Iterator[Finding]:
    """Facts that all patches together move too far."""
    for one in shifts:
        yield from _too_far(one.worst, f"the stack moves {one.fact!r} of {one.patch}", one.layer, limits)


def _too_far(share: float, text: str, layer: int, limits: ShiftLimits) -> Iterator[Finding]:
    if share >= limits.warn:
        level: Level = "refuse" if share >= limits.refuse else "warn"
        yield Finding(level, f"{text} at layer {layer} by {share:.0%} of its own edit", conflict=True)


def _fact_findings(stacked: Sequence[Stacked]) -> Iterator[Finding]:
    for overlap in find_overlaps(stacked):
        if overlap.contradicts:
            yield Finding("refuse", f"contradictory facts: {overlap}", conflict=True)
        else:
            yield Finding("note", f"said twice: {overlap}; the later one counts")


def _prompt_findings(stacked: Sequence[Stacked]) -> Iterator[Finding]:
    for member in stacked:
        if member.patch.kind == "prompt":
            yield Finding(
                "refuse",
                f"{member.name} changes prompts alone: there is nothing to put on a model or to merge. "
                "Disable it, and try it with moe-patch ask or eval",
            )


def _bypass_findings(stacked: Sequence[Stacked]) -> Iterator[Finding]:
    taken: dict[int, str] = {}
    for member in stacked:
        for layer in member.patch.base.experts if member.patch.kind == "bypass" else ():
            if layer in taken:
                yield Finding(
                    "refuse",
                    f"{taken[layer]} and {member.name} both put a bypass beside layer {layer}: each routes "
                    "every token past the same experts, and which one wins is undefined. Disable one of them",
                )
            taken[layer] = member.name


def foundation_findings(stacked: Sequence[Stacked]) -> Iterator[Finding]:
    """Patches that were built on others which are not beneath them."""
    beneath: set[str] = set()
    for member in stacked:
        missing = [digest for digest in foundation_of(member.patch).patches if digest not in beneath]
        if missing:
            yield Finding(
                "warn",
                f"{member.name} was built on top of {missing[0]}"
                + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
                + ", which is not enabled below it: its facts may not hold",
            )
        beneath.add(member.patch.hash)


def ordered(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The findings, the worst first."""
    order: tuple[Level, ...] = ("refuse", "warn", "note")
    return tuple(sorted(findings, key=lambda finding: order.index(finding.level)))


def allowed(finding: Finding) -> Finding:
    """The finding for a user who allows conflicts: a conflict does not refuse."""
    return replace(finding, level="warn") if finding.conflict and finding.level == "refuse" else finding

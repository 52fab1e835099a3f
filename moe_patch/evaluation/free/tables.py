"""What models wrote freely, as a table for people."""

from __future__ import annotations

from rich.table import Table

from moe_patch.evaluation.free.questions import KINDS, Kind
from moe_patch.evaluation.free.scores import FreeScore, FreeScores
from moe_patch.evaluation.metrics import Score

_TITLES: dict[Kind, str] = {
    "negation": "negation: the new answer is not given",
    "chains": "chains: the old answer still follows",
}


def free_table(patched: FreeScores, base: FreeScores, *, stop: bool) -> Table:
    """The scores of both states, side by side; kinds without a prompt have no row.

    Args:
        patched: the scores with the patch.
        base: those without it.
        stop: whether the patch trained the end of its answers.
    """
    judged = any(patched.score(kind).judged.n for kind in KINDS)
    columns = ["exact", "interval", "contained", *(["judged"] if judged else [])]
    trained = "with" if stop else "without"
    title = f"Free writing, {patched.budget} tokens at most: percent of replies; targets {trained} their end"
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("")
    for name in (
        *(f"patched: {columns[0]}", *columns[1:]),
        *(f"base: {columns[0]}", *columns[1:]),
        "prompts",
    ):
        table.add_column(name, justify="right")
    for kind in KINDS:
        score = patched.score(kind)
        if score.exact.n:
            cells = (*_cells(score, judged=judged), *_cells(base.score(kind), judged=judged))
            table.add_row(_TITLES.get(kind, kind), *cells, str(score.exact.n))
    _add_others(table, patched, base, judged=judged)
    return table


def _add_others(table: Table, patched: FreeScores, base: FreeScores, *, judged: bool) -> None:
    """Rows that have one value for each state."""
    rest = [""] * (2 if judged else 1)
    fluent, before = patched.fluency, base.fluency
    for title, ours, theirs in (
        ("ended by the model", patched.stopped, base.stopped),
        ("repeated 4-grams", fluent.repetition, before.repetition),
    ):
        if ours.n:
            table.add_row(title, *_value(ours), *rest, *_value(theirs), *rest, str(ours.n))
    entropies = ("-" if found is None else f"{found:.2f}" for found in (fluent.entropy, before.entropy))
    ours_bits, base_bits = entropies
    table.add_row("n-gram entropy, bits", ours_bits, "", *rest, base_bits, "", *rest, str(patched.stopped.n))


def _cells(score: FreeScore, *, judged: bool) -> list[str]:
    return [*_value(score.exact), str(score.contained), *([str(score.judged)] if judged else [])]


def _value(score: Score) -> tuple[str, str]:
    interval = "-" if score.interval is None else f"{score.interval[0]:.1f} to {score.interval[1]:.1f}"
    return str(score), interval

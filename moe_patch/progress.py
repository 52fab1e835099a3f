"""How long-running work reports its progress, and bars for whoever is looking."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

Progress = Callable[[str, int, int], None]
"""Called as progress(stage, done, total). The stage is in plain words ("targets", "facts edited", ...)."""


@contextmanager
def progress_bars() -> Iterator[Progress | None]:
    """A function that draws progress as one bar for each stage: on a terminal, or in a notebook's cell.

    None where nobody is looking: standard error is no terminal, and this is no notebook.
    """
    console = Console(stderr=True)
    with ExitStack() as ended:
        if console.is_jupyter:
            yield _notebook_bars(ended)
        elif console.is_terminal:
            yield _terminal_bars(console, ended)
        else:
            yield None


def _terminal_bars(console: Console, ended: ExitStack) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bars = ended.enter_context(Bars(*columns, console=console, transient=True))
    tasks: dict[str, TaskID] = {}

    def report(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage)
        bars.update(tasks[stage], completed=done, total=total)

    return report


def _notebook_bars(ended: ExitStack) -> Progress:
    """Bars of tqdm: widgets where the notebook has them, else text; rich would show nothing then."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for widgets, and does without
        from tqdm.auto import tqdm  # noqa: PLC0415 (importing it warns)
    bars: dict[str, Any] = {}

    def report(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            bars[stage] = ended.enter_context(tqdm(desc=stage, total=total, leave=False))
        bar = bars[stage]
        bar.total, bar.n = total, done
        bar.refresh()

    return report

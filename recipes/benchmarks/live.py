"""Time to add a patch to a running server and remove it, and time to the first corrected answer.

    MOE_PATCH_TOKEN=... python -m recipes.benchmarks.live --url http://localhost:8000 PATCH --json

PATCH is a file on the server. One client asks for the patch's first fact again and again, while another adds
the patch. The time to the first corrected answer is from the request for the change to the end of the first
new answer. The other times do not count waiting for running requests. Figures are medians over rounds.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click

from moe_patch.cli.live.client import LiveClient
from moe_patch.patch import load

from . import Figures, print_figures
from ._served import served_text

TOKENS = 8


def first_corrected(
    ask: Callable[[], str], change: Callable[[], dict[str, Any]], wanted: str
) -> tuple[float, Any]:
    """Seconds until the first new answer, and the server's report of its change."""
    with ThreadPoolExecutor(1) as pool:
        started = time.perf_counter()
        changing = pool.submit(change)
        while not ask().startswith(wanted):
            if changing.done():
                changing.result()
        return time.perf_counter() - started, changing.result()


def beyond_draining(change: dict[str, Any]) -> float:
    """Seconds that a change took after running requests had ended."""
    seconds = change["seconds"]
    return float(seconds["apply"] + seconds["self_test"])


@click.command(help=__doc__)
@click.argument("patch", required=False, type=click.Path(path_type=Path))
@click.option("--url", default="http://localhost:8000", show_default=True)
@click.option("--model", default="atlas", show_default=True, help="What the server calls its model.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(patch: Path | None, url: str, model: str, rounds: int, as_json: bool) -> None:
    """Change, ask and report."""
    if patch is None:
        click.echo("needs a running server and a patch: see --help")
        return
    server, loaded = LiveClient(url, os.environ["MOE_PATCH_TOKEN"]), load(patch)
    fact = loaded.facts[0]
    first, added, removed = [], [], []
    for _ in range(rounds):
        seconds, change = first_corrected(
            lambda: served_text(url, model, fact.text, TOKENS).strip(),
            lambda: server.add(str(patch), None, {}),
            fact.target_new,
        )
        first.append(seconds)
        added.append(beyond_draining(change))
        removed.append(beyond_draining(server.remove(loaded.hash)))
    figures: Figures = {
        "facts": len(loaded.facts),
        "rounds": rounds,
        "first_corrected_answer_seconds": statistics.median(first),
        "add_beyond_draining_seconds": statistics.median(added),
        "remove_beyond_draining_seconds": statistics.median(removed),
    }
    print_figures("a patch on a running server", figures, as_json)


if __name__ == "__main__":
    main()

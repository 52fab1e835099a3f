"""A running server under load while good patches go on and off, bad ones are rejected, and files are harmed.

    MOE_PATCH_TOKEN=... python -m recipes.benchmarks.live_load --url http://localhost:8000 \\
        --pid PID GOOD REJECTED --seconds 600 --changes 60 --json

GOOD and REJECTED are files on the server, in an allowed folder that this script may write to. REJECTED is a
patch that does something but does not say its own facts. Every third change tries to add it, while GOOD, a
copy of it, is on or off in turn; a copy that is on is rewritten in place, cut or removed. Every answer is
compared with those of the three states, which are asked beforehand. --pid is the server's process; memory is
that of its engine and workers.
"""

from __future__ import annotations

import itertools
import os
import shutil
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import click
import psutil

from moe_patch.cli.live.client import LiveClient, ServerError
from moe_patch.patch import load

from . import Figures, print_figures
from ._served import served_text

TOKENS = 12


@dataclass(slots=True)
class Load:
    """Streams that go on asking, what they were told, and how long each answer took."""

    url: str
    prompts: list[str]
    known: dict[str, dict[str, str]] = field(default_factory=dict)  # by state and prompt
    stop: threading.Event = field(default_factory=threading.Event)
    answers: list[tuple[str, str, float]] = field(default_factory=list)  # prompt, text, seconds
    failed: list[str] = field(default_factory=list)

    def ask(self, prompt: str) -> str:
        """The server's greedy continuation."""
        return served_text(self.url, "atlas", prompt, TOKENS)

    def learn(self, state: str) -> None:
        """Note what the server says in its present state."""
        self.known[state] = {prompt: self.ask(prompt) for prompt in self.prompts}

    def stream(self, number: int) -> None:
        """Ask one prompt after the other until told to stop."""
        for prompt in itertools.islice(itertools.cycle(self.prompts), number, None):
            if self.stop.is_set():
                return
            started = time.perf_counter()
            try:
                text = self.ask(prompt)
            except OSError as error:
                self.failed.append(str(error))
                continue
            self.answers.append((prompt, text, time.perf_counter() - started))

    def of_no_state(self) -> int:
        """How many answers are neither of the server with the good patch nor of the one without it."""
        return sum(
            text not in {self.known[state][prompt] for state in ("off", "on")}
            for prompt, text, _ in self.answers
        )

    def of_the_rejected(self) -> int:
        """How many answers only the rejected patch gives."""
        return sum(
            text == self.known["rejected"][prompt]
            and text not in {self.known[state][prompt] for state in ("off", "on")}
            for prompt, text, _ in self.answers
        )


@dataclass(slots=True)
class Operator:
    """Makes the changes, and harms files."""

    server: LiveClient
    good: Path
    rejected: Path
    pauses: list[float] = field(default_factory=list)  # of changes that were made
    rejections: int = 0
    _copies: int = 0

    def change(self, number: int) -> None:
        """The next change: every third one is rejected, the others put the good patch on and off."""
        if number % 3 == 2:
            try:
                self.server.add(str(self.rejected), None, {})
            except ServerError as error:
                if "self_test_failed" not in str(error):
                    raise
                self.rejections += 1
        elif number % 3 == 0:
            copy = self.good.with_name(f"{self.good.stem}-{number}.safetensors")
            shutil.copyfile(self.good, copy)
            self.pauses.append(self.server.add(str(copy), None, {})["seconds"]["pause"])
            _harm(copy, self.rejected, number // 3)
        else:
            self.pauses.append(self.server.remove(load(self.good).hash)["seconds"]["pause"])


def _harm(path: Path, other: Path, turn: int) -> None:
    """Rewrite a file in place, cut it, or remove it, in turn."""
    if turn % 3 == 0:
        with path.open("r+b") as file:
            file.write(other.read_bytes())
    elif turn % 3 == 1:
        os.truncate(path, 100)
    else:
        path.unlink()


def memory(pid: int) -> int:
    """Bytes that the processes below a server's hold."""
    return sum(process.memory_info().rss for process in psutil.Process(pid).children(recursive=True))


def measure(load_: Load, operator: Operator, pid: int, streams: int, seconds: float, changes: int) -> Figures:
    """Run the load and the changes, and count."""
    with ThreadPoolExecutor(streams) as pool:
        running = [pool.submit(load_.stream, number) for number in range(streams)]
        before, started = memory(pid), time.monotonic()
        try:
            for number in range(changes):
                time.sleep(max(0.0, started + seconds * number / changes - time.monotonic()))
                operator.change(number)
        finally:
            load_.stop.set()
        for one in running:
            one.result()
    pauses = sorted(operator.pauses)
    return {
        "seconds": time.monotonic() - started,
        "answers": len(load_.answers),
        "answers_failed": len(load_.failed),
        "answers_of_the_rejected_patch": load_.of_the_rejected(),
        "answers_of_no_state": load_.of_no_state(),
        "changes_made": len(pauses),
        "changes_rejected": operator.rejections,
        "pause_median_seconds": statistics.median(pauses),
        "pause_longest_seconds": pauses[-1],
        "longest_answer_seconds": max(seconds for _, _, seconds in load_.answers),
        "memory_grown_bytes": memory(pid) - before,
    }


@click.command(help=__doc__)
@click.argument("good", required=False, type=click.Path(path_type=Path))
@click.argument("rejected", required=False, type=click.Path(path_type=Path))
@click.option("--url", default="http://localhost:8000", show_default=True)
@click.option("--pid", type=int, default=0, help="The server's process.")
@click.option("--streams", default=12, show_default=True)
@click.option("--seconds", default=600.0, show_default=True)
@click.option("--changes", default=60, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(
    good: Path | None,
    rejected: Path | None,
    url: str,
    pid: int,
    streams: int,
    seconds: float,
    changes: int,
    as_json: bool,
) -> None:
    """Learn the states, load the server, and report."""
    if good is None or rejected is None:
        click.echo("needs a running server and two patches: see --help")
        return
    server = LiveClient(url, os.environ["MOE_PATCH_TOKEN"])
    facts = [*load(good).facts, *load(rejected).facts]
    load_ = Load(url, [fact.text for fact in facts][:40])
    load_.learn("off")
    for state, path in (("on", good), ("rejected", rejected)):
        server.add(str(path), None, {"unproved": True})
        load_.learn(state)
        server.remove(load(path).hash)
    figures = measure(load_, Operator(server, good, rejected), pid, streams, seconds, changes)
    print_figures("a server under load and changes", figures, as_json)


if __name__ == "__main__":
    main()

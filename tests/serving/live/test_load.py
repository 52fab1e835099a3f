"""Patches on and off under load: nothing fails, no answer is of two states or of a rejected patch."""

from __future__ import annotations

import itertools
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.serving.live.conftest import Patches
from tests.serving.live.server import Running, refused

STREAMS = 16
CHANGES = 20
LENGTH = 12  # tokens in an answer
MEMORY = 160 * 2**20  # bytes that pages of the cache of keys and values add when they are first used


@dataclass(slots=True)
class States:
    """Which states the server may be in: one, or two while it changes from one to the other."""

    history: list[tuple[float, frozenset[str]]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def become(self, *possible: str) -> None:
        with self._lock:
            self.history.append((time.monotonic(), frozenset(possible)))

    def between(self, start: float, end: float) -> frozenset[str]:
        """All that were possible at some moment of an interval."""
        with self._lock:
            history = list(self.history)
        ends = [moment for moment, _ in history[1:]] + [float("inf")]
        seen = [
            states
            for (since, states), until in zip(history, ends, strict=True)
            if since <= end and until >= start
        ]
        return frozenset().union(*seen)


@dataclass(frozen=True, slots=True)
class Answer:
    prompt: str
    text: str
    possible: frozenset[str]


def stream(server: Running, client: httpx.Client, prompt: str) -> str:
    """One streamed completion; raises for anything that is not a whole answer."""
    body = {"model": "atlas", "prompt": prompt, "max_tokens": LENGTH, "temperature": 0, "stream": True}
    text, reason = "", None
    with client.stream("POST", f"{server.url}/v1/completions", json=body) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                event = json.loads(line.removeprefix("data: "))
                assert "error" not in event, event
                text += event["choices"][0]["text"]
                reason = event["choices"][0]["finish_reason"] or reason
    assert reason in {"length", "stop"}, reason
    return text


@dataclass(slots=True)
class Load:
    """Streams that go on asking, and what they were told."""

    server: Running
    prompts: list[str]
    states: States = field(default_factory=States)
    stop: threading.Event = field(default_factory=threading.Event)
    answers: list[Answer] = field(default_factory=list)

    def ask(self, number: int) -> None:
        """One stream after the other, until told to stop."""
        with httpx.Client(timeout=300) as client:
            for prompt in itertools.islice(itertools.cycle(self.prompts), number, None):
                if self.stop.is_set():
                    return
                start = time.monotonic()
                text = stream(self.server, client, prompt)
                self.answers.append(Answer(prompt, text, self.states.between(start, time.monotonic())))

    def change(self, path: Path, liar: Path, rounds: int) -> None:
        """Put a patch on and off in turn, and have one rejected each time that it is off."""
        for number in range(rounds):
            if number % 2 == 0:
                refused(self.server.add(liar, allow_conflicts=True), 422, "self_test_failed")
            before, after = ("off", "on") if number % 2 == 0 else ("on", "off")
            self.states.become(before, after)
            done = (
                self.server.add(path) if after == "on" else self.server.call("DELETE", f"patches/{path.stem}")
            )
            assert done.status_code in {200, 201}, done.text
            self.states.become(after)
            told = len(self.answers)
            while len(self.answers) < told + 2 * STREAMS and not self.stop.is_set():
                time.sleep(0.01)  # so that every stream begins and ends one in this state


def test_sixteen_streams_and_twenty_changes(server: Running, patches: Patches) -> None:
    prompts = [fact.text for fact in (*patches.facts(patches.one), *patches.facts(patches.loaded))]
    with httpx.Client(timeout=300) as client:
        said = {"off": {prompt: stream(server, client, prompt) for prompt in prompts}}
        server.add(patches.one).raise_for_status()
        said["on"] = {prompt: stream(server, client, prompt) for prompt in prompts}
    server.bare()
    assert sum(said["on"][prompt] != said["off"][prompt] for prompt in prompts) >= 5
    load = Load(server, prompts)
    load.states.become("off")
    with ThreadPoolExecutor(STREAMS) as pool:
        streams = [pool.submit(load.ask, number) for number in range(STREAMS)]
        for one in streams:
            one.add_done_callback(lambda _: load.stop.set())  # one that failed ends the test
        try:
            load.change(patches.one, patches.liar, 4)  # after which allocators have what they need
            memory = server.memory()
            load.change(patches.one, patches.liar, CHANGES)
        finally:
            load.stop.set()
        for one in streams:
            one.result()
    mixed = [a for a in load.answers if all(a.text != said[state][a.prompt] for state in a.possible)]
    assert not mixed
    settled = {state for answer in load.answers if len(answer.possible) == 1 for state in answer.possible}
    assert settled == {"on", "off"}
    assert len(load.answers) >= 2 * STREAMS * CHANGES
    assert server.metric("moe_patch_kept_bytes") == 0
    assert server.memory() - memory < MEMORY

"""The stopwatch and the watch over memory, against what was done meanwhile."""

from __future__ import annotations

import time

import pytest
import torch

from moe_patch.bench.along import at_batch_ends, evenly, some_counts
from moe_patch.bench.memory import PeakMemory
from moe_patch.bench.stopwatch import Stopwatch
from tests.bench.conftest import FACTS

MIB = 2**20


def test_time_goes_to_the_stage_that_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 3.0, 10.0, 11.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    watch = Stopwatch()
    watch("targets", 1, 2)
    watch("solve", 1, 1)
    watch.skip()  # seven seconds of measuring
    watch("targets", 2, 2)
    assert watch.seconds == {"targets": 2.0, "solve": 2.0}


def test_a_peak_between_beginning_and_end_is_seen() -> None:
    with PeakMemory() as watched:
        held = torch.ones(256 * MIB // 4)
        time.sleep(0.5)
        del held
    found = watched.found
    assert found.host_peak - found.host_before > 48 * MIB
    if not torch.cuda.is_available():
        assert found.device_peak is None


def test_counts_are_the_ends_of_batches() -> None:
    assert some_counts(1000, 50) == [200, 400, 600, 800, 1000]
    assert some_counts(7, 3) == [3, 6, 7]
    assert some_counts(2, 50) == [2]
    assert at_batch_ends([1, 50, 51, 5000], 120, 50) == [50, 100]
    assert at_batch_ends([110], 120, 50) == [120]


def test_some_facts_are_spread_over_all() -> None:
    assert [fact.id for fact in evenly(FACTS, 3)] == ["0", "2", "4"]
    assert evenly(FACTS, 10) is FACTS

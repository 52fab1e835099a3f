"""Prometheus metrics of live patches, on the same page as vLLM's metrics."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """Counters and gauges. Create them once in a process, after vLLM has set up its registry."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._changes = Counter(
            "moe_patch_changes",
            "Changes of the live stack that were asked for, by what became of them.",
            ["operation", "outcome"],
            registry=registry,
        )
        self._seconds = Histogram(
            "moe_patch_change_seconds",
            "How long the phases of a change took.",
            ["operation", "phase"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self._answers = Counter(
            "moe_patch_self_test_answers",
            "Facts that were asked in self-tests, by whether the answer was right.",
            ["right"],
            registry=registry,
        )
        self._patches = Gauge(
            "moe_patch_patches",
            "Patches in the weights, by how they got there.",
            ["origin"],
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self._kept = Gauge(
            "moe_patch_kept_bytes",
            "What the originals of touched experts take on the host, over all workers.",
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self._usable = Gauge(
            "moe_patch_workers_agree",
            "1 while all workers hold the same stack, 0 after a change that could not be taken back.",
            multiprocess_mode="livemostrecent",
            registry=registry,
        )

    def changed(self, operation: str, outcome: str) -> None:
        """Count a change. `outcome` is "done" or the code of the error."""
        self._changes.labels(operation, outcome).inc()

    def took(self, operation: str, seconds: Mapping[str, float]) -> None:
        """Record how long the phases of a change took."""
        for phase, value in seconds.items():
            self._seconds.labels(operation, phase).observe(value)

    def answered(self, right: int, wrong: int) -> None:
        """Count a self-test's answers."""
        self._answers.labels("true").inc(right)
        self._answers.labels("false").inc(wrong)

    def stands(self, *, loaded: int, live: int, kept_bytes: int, agree: bool) -> None:
        """Record the present state."""
        self._patches.labels("loaded").set(loaded)
        self._patches.labels("live").set(live)
        self._kept.set(kept_bytes)
        self._usable.set(agree)

"""The parts of a report: plain values, from which tables and JSON are made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

VersionStatus = Literal["tested", "newer than tested", "older than supported", "not installed"]

Values = Sequence[float] | Sequence[str]


@dataclass(frozen=True, slots=True)
class Release:
    """A package that moe-patch uses: its installed release and the declared range."""

    name: str
    installed: str | None
    supported: str
    standing: VersionStatus
    extra: str | None  # the extra that requires it; None if it is always required

    @property
    def warning(self) -> str | None:
        """A warning about this release, or None. A missing extra is no reason for one."""
        if self.standing == "tested" or (self.standing == "not installed" and self.extra):
            return None
        found = f"{self.name} {self.installed}" if self.installed else self.name
        return f"{found} is {self.standing}: expected {self.supported or 'any release'}"


@dataclass(frozen=True, slots=True)
class SystemInfo:
    """The interpreter, the processor and the build of torch; `instructions` are those of torch's kernels."""

    moe_patch: str
    python: str
    platform: str
    processor: str
    instructions: str
    cores: int
    threads: int
    torch_build: str


@dataclass(frozen=True, slots=True)
class Device:
    """A device that models run on. Memory is in bytes. A value is None if torch does not give it."""

    name: str
    product: str | None
    capability: str | None
    free: int | None
    total: int | None


@dataclass(frozen=True, slots=True)
class Storage:
    """The cache, and the free bytes at the cache and in the working folder."""

    cache: str
    cache_files: int
    cache_bytes: int
    free_at_cache: int
    free_at_work: int


@dataclass(frozen=True, slots=True)
class Plugin:
    """The installed vLLM, and the reasons why the plugin would stay off in it."""

    vllm: str | None
    supported: tuple[str, ...]
    off_because: tuple[str, ...]

    @property
    def on(self) -> bool:
        """Whether the plugin would be on in vLLM: there is no reason against it."""
        return not self.off_because


@dataclass(frozen=True, slots=True)
class SelfTestCheck:
    """Numbers or texts of a self-test, and the stored ones. Texts must be equal."""

    name: str
    found: Values
    expected: Values
    tolerance: float

    @property
    def furthest(self) -> float | None:
        """The largest difference between two numbers, NaN if any number is NaN; None for texts."""
        apart = [
            abs(found - wanted)
            for found, wanted in zip(self.found, self.expected, strict=True)
            if isinstance(found, int | float) and isinstance(wanted, int | float)
        ]
        return math.nan if any(map(math.isnan, apart)) else max(apart, default=None)

    @property
    def passed(self) -> bool:
        """Whether all texts are equal and all differences are within the tolerance. NaN never is."""
        furthest = self.furthest
        return list(self.found) == list(self.expected) if furthest is None else furthest <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        """JSON values. Numbers that are not finite become texts, because JSON has no such numbers."""
        found = [str(v) if isinstance(v, float) and not math.isfinite(v) else v for v in self.found]
        return asdict(self) | {"found": found, "expected": list(self.expected), "passed": self.passed}


@dataclass(frozen=True, slots=True)
class SelfTestResult:
    """A self-test on one device. `error` is the error that ended it early, if any."""

    device: str
    seconds: float
    checks: tuple[SelfTestCheck, ...]
    error: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the self-test ran to its end and all its checks passed."""
        return self.error is None and all(check.passed for check in self.checks)

    @property
    def failures(self) -> list[str]:
        """One line for each failure."""
        lines = [
            f"{check.name}: found {_spell(check.found)}, expected {_spell(check.expected)}"
            + ("" if check.furthest is None else f" within {check.tolerance:g}")
            for check in self.checks
            if not check.passed
        ]
        return lines if self.error is None else [self.error, *lines]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        checks = [check.to_json() for check in self.checks]
        return asdict(self) | {"passed": self.passed, "checks": checks}


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """The whole report of `moe-patch doctor`."""

    system: SystemInfo
    releases: tuple[Release, ...]
    devices: tuple[Device, ...]
    storage: Storage
    plugin: Plugin
    self_tests: tuple[SelfTestResult, ...]

    @property
    def warnings(self) -> list[str]:
        """Warnings about releases that were never tested."""
        return [warning for release in self.releases if (warning := release.warning)]

    @property
    def passed(self) -> bool:
        """Whether no self-test failed."""
        return all(test.passed for test in self.self_tests)

    def to_json(self) -> dict[str, Any]:
        """JSON values, for a bug report."""
        whole = asdict(self) | {"warnings": self.warnings, "passed": self.passed}
        whole["plugin"]["on"] = self.plugin.on
        whole["self_tests"] = [test.to_json() for test in self.self_tests]
        return whole


def _spell(values: Values) -> str:
    return ", ".join(repr(v) if isinstance(v, str) else f"{v:.6g}" for v in values)

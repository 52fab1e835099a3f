"""Run the fast tests with the newest of everything, and say in one table what differs from the lock.

    python -m locks.newest torch==2.13.0 [what pytest is to be given]

It runs in the environment of the newest, and takes the release of torch that is tested, which no lock holds.
Where nothing differs, the tests have been run by `make test`, and are not run again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from xml.etree import ElementTree

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from rich.console import Console
from rich.table import Table

from locks.lock import BY_TORCH
from locks.requirements import LIBRARY_LOCK, entries, pinned

NOT_LOCKED = {"moe-patch", "pip"}


class Difference(NamedTuple):
    """A package whose release is another than the locked one; None where there is none of it."""

    package: str
    locked: Version | None
    newest: Version | None


def locked_here(lock: str, torch: str) -> dict[str, Version]:
    """What the text of a lock, and the exact requirement `torch`, ask for on this interpreter and system."""
    here = (entry for entry in entries(lock) if entry.marker is None or entry.marker.evaluate())
    return {canonicalize_name(entry.name): pinned(entry) for entry in (*here, Requirement(torch))}


def installed_here() -> dict[str, Version]:
    """What this environment has, less what comes with one build of torch or another."""
    found = {canonicalize_name(one.name): Version(one.version) for one in distributions()}
    return {
        name: version
        for name, version in found.items()
        if name not in NOT_LOCKED and (name == "torch" or not BY_TORCH.fullmatch(name))
    }


def differences(locked: Mapping[str, Version], newest: Mapping[str, Version]) -> list[Difference]:
    """The packages that differ, by name; builds of one release, such as 2.13.0+cpu, do not."""
    pairs = (
        Difference(name, locked.get(name), newest.get(name)) for name in sorted(locked.keys() | newest.keys())
    )
    return [pair for pair in pairs if _release(pair.locked) != _release(pair.newest)]


def _release(version: Version | None) -> str | None:
    return version.public if version else None


def run_tests(arguments: list[str]) -> tuple[int, str]:
    """Run the fast tests; pytest's exit status, and what it counted."""
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-m", "not slow", f"--junit-xml={report}", *arguments]
        status = subprocess.run(command, check=False).returncode
        return status, counted(report.read_text(encoding="utf-8")) if report.exists() else "no report"


def counted(report: str) -> str:
    """The totals of a JUnit report."""
    suites = list(ElementTree.fromstring(report).iter("testsuite"))
    kinds = ("tests", "failures", "errors", "skipped")
    total = {kind: sum(int(suite.get(kind, 0)) for suite in suites) for kind in kinds}
    return ", ".join(f"{count:,} {kind}" for kind, count in total.items())


def table(found: list[Difference]) -> Table:
    """What differs, a row for each package."""
    drawn = Table("package", "locked", "newest")
    for package, locked, newest in found:
        drawn.add_row(package, str(locked or "none"), str(newest or "none"))
    return drawn


def main() -> int:
    """The exit status is that of the tests, and zero where there is nothing to test."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("torch", help="the release that is tested, as name==version")
    arguments, for_pytest = parser.parse_known_args()
    console = Console()
    found = differences(locked_here(LIBRARY_LOCK.read_text("utf-8"), arguments.torch), installed_here())
    if not found:
        console.print("The newest of everything is what is locked: no test is run again.")
        return 0
    status, counts = run_tests(for_pytest)
    console.print(table(found))
    console.print(f"fast tests {'passed' if status == 0 else f'FAILED, status {status}'}: {counts}")
    return status


if __name__ == "__main__":
    sys.exit(main())

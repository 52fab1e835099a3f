"""What the project asks for, and what its locks hold.

`make` asks it for the requirements of an environment with the newest of everything:

    python -m locks.requirements    # those of the library but torch, without upper bounds
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PYPROJECT = ROOT / "pyproject.toml"
LIBRARY_LOCK = ROOT / "requirements.lock"
SERVING_IN = ROOT / "serving" / "requirements.in"
SERVING_LOCK = ROOT / "serving" / "requirements.lock"
ENGINES_IN = ROOT / "tests" / "engines" / "requirements.in"
ENGINES_LOCK = ROOT / "tests" / "engines" / "requirements.lock"

RUN_TIME = ("bench", "datasets", "lm-eval", "memoe", "peft")
"""The extras that the package imports from. vLLM's bound is not among theirs: 0.33 was read, not run."""


@dataclass(frozen=True)
class Asked:
    """The requirements in `pyproject.toml`, as they are written there."""

    build: list[str]
    dependencies: list[str]
    extras: dict[str, list[str]]

    def bounded(self) -> list[str]:
        """Those whose upper bound says what was run: the package's own and those of its extras."""
        return [*self.dependencies, *(line for extra in RUN_TIME for line in self.extras[extra])]

    def library(self) -> list[str]:
        """Those of an environment for all of the library: to run, build, measure and test it."""
        tools = (line for line in self.extras["dev"] if not line.startswith("moe-patch["))
        return [*self.bounded(), *tools, *self.build]

    def beside_vllm(self) -> list[str]:
        """Those of an environment that serves."""
        return [*self.dependencies, *self.extras["memoe"], *self.build]


def asked(pyproject: str) -> Asked:
    """Read the text of `pyproject.toml`."""
    settings = tomllib.loads(pyproject)
    build, project = settings["build-system"]["requires"], settings["project"]
    return Asked(build, project["dependencies"], project["optional-dependencies"])


def without_upper_bound(line: str) -> Requirement:
    """The requirement of `line`, open to releases that are yet to come."""
    requirement = Requirement(line)
    kept = (bound for bound in requirement.specifier if bound.operator not in {"<", "<="})
    requirement.specifier = SpecifierSet(",".join(map(str, kept)))
    return requirement


def entries(lock: str) -> Iterator[Requirement]:
    """Each release in the text of a lock, with its marker; their hashes stand on lines that are indented."""
    for line in lock.splitlines():
        if line and line[0] not in "# ":
            yield Requirement(line.removesuffix("\\").strip())


def releases(lock: str) -> dict[str, list[Version]]:
    """The locked versions of each package, by its normalised name: several where interpreters differ."""
    found: dict[str, list[Version]] = {}
    for entry in entries(lock):
        found.setdefault(canonicalize_name(entry.name), []).append(pinned(entry))
    return found


def pinned(entry: Requirement) -> Version:
    """The version of a requirement that is exact."""
    (exact,) = entry.specifier
    return Version(exact.version)


if __name__ == "__main__":
    wanted = asked(PYPROJECT.read_text(encoding="utf-8")).library()
    sys.stdout.writelines(
        f"{without_upper_bound(line)}\n" for line in wanted if Requirement(line).name != "torch"
    )

"""The locks against what the project asks for, and how `make lock` finds upper bounds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from locks.lock import BESIDE_VLLM, BY_TORCH, next_minor, with_bound, with_bounds
from locks.requirements import (
    ENGINES_IN,
    ENGINES_LOCK,
    LIBRARY_LOCK,
    PYPROJECT,
    ROOT,
    SERVING_LOCK,
    asked,
    entries,
    pinned,
    releases,
    without_upper_bound,
)

LOCKS = pytest.mark.parametrize(
    "lock", [LIBRARY_LOCK, SERVING_LOCK, ENGINES_LOCK], ids=["library", "serving", "engines"]
)


def pinned_by_make(variable: str) -> Version:
    """The release of torch that the Makefile names in `variable`."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (version,) = re.findall(rf"^{variable} := torch==(\S+)$", makefile, re.MULTILINE)
    return Version(version)


def locked(lock: Path, torch: str) -> dict[str, list[Version]]:
    return releases(lock.read_text("utf-8")) | {"torch": [pinned_by_make(torch)]}


LIBRARY = locked(LIBRARY_LOCK, "TESTED_TORCH")
SERVING = locked(SERVING_LOCK, "SERVING_TORCH")
ENGINES = locked(ENGINES_LOCK, "TESTED_TORCH")
ASKED = asked(PYPROJECT.read_text("utf-8"))


@pytest.mark.parametrize("line", ASKED.bounded())
def test_an_upper_bound_is_the_next_minor_release_after_the_locked_one(line: str) -> None:
    requirement = Requirement(line)
    (bound,) = (bound for bound in requirement.specifier if bound.operator in {"<", "<="})
    newest = max(LIBRARY[canonicalize_name(requirement.name)])
    assert str(bound) == f"<{newest.major}.{newest.minor + 1}"


@pytest.mark.parametrize(
    ("versions", "lines"),
    [
        pytest.param(LIBRARY, ASKED.library(), id="library"),
        pytest.param(SERVING, ASKED.beside_vllm(), id="serving"),
        pytest.param(
            ENGINES, re.findall(r"^\w.*", ENGINES_IN.read_text("utf-8"), re.MULTILINE), id="engines"
        ),
    ],
)
def test_what_is_asked_for_is_locked_within_its_range(
    versions: dict[str, list[Version]], lines: list[str]
) -> None:
    for requirement in map(Requirement, lines):
        for version in versions[canonicalize_name(requirement.name)]:
            assert requirement.specifier.contains(version), f"{requirement} is locked at {version}"


@LOCKS
def test_every_release_is_exact_and_has_a_hash(lock: Path) -> None:
    text = lock.read_text("utf-8")
    found = [pinned(entry) for entry in entries(text)]  # raises for a range
    assert len(found) > 20
    assert len(
        re.findall(r"^\S[^#\n]* \\\n    --hash=sha256:[0-9a-f]{64}( \\)?$", text, re.MULTILINE)
    ) == len(found)
    assert set(re.findall(r"--hash=(\w+):", text)) == {"sha256"}


@LOCKS
def test_a_lock_names_no_place(lock: Path) -> None:
    """Not the index that it came from, nor a folder of the machine that made it."""
    assert not re.search(r"://|--index|--find-links|(^|\s)/|file:", lock.read_text("utf-8"), re.MULTILINE)


def test_torch_and_its_cuda_packages_are_left_open() -> None:
    for lock in (LIBRARY_LOCK, ENGINES_LOCK):
        assert not list(filter(BY_TORCH.fullmatch, releases(lock.read_text("utf-8"))))
    assert not list(filter(BESIDE_VLLM.fullmatch, releases(SERVING_LOCK.read_text("utf-8"))))


@pytest.mark.parametrize(
    ("line", "version", "bounded"),
    [
        ("transformers>=5.16,<5.25", "5.25.1", "transformers>=5.16,<5.26"),
        ("peft>=0.18", "0.21.2", "peft>=0.18,<0.22"),
        ("babel", "2.19.0", "babel<2.20"),
        ("torch>=2.9,!=2.10.1,<=3", "2.13.0+cpu", "torch!=2.10.1,>=2.9,<2.14"),
        ("pyyaml>=6", "6", "pyyaml>=6,<6.1"),
    ],
)
def test_a_bound_moves_with_the_lock(line: str, version: str, bounded: str) -> None:
    assert with_bound(line, Version(version)) == bounded
    assert Requirement(bounded).specifier.contains(Version(version))
    assert not Requirement(bounded).specifier.contains(Version(next_minor(Version(version))))
    assert without_upper_bound(line).specifier.contains("99.0")


def test_bounds_are_written_where_they_stand_and_nothing_else_changes() -> None:
    text = PYPROJECT.read_text("utf-8")
    assert with_bounds(text, LIBRARY) == text
    moved = with_bounds(text, LIBRARY | {"transformers": [Version("5.30.2"), Version("5.31.0")]})
    changed = [pair for pair in zip(text.splitlines(), moved.splitlines(), strict=True) if len(set(pair)) > 1]
    assert [new.strip() for _, new in changed] == ['"transformers>=5.16,<5.32",']

"""Renew the locks, and the upper bounds that follow from them.

    python -m locks.lock torch==2.13.0 --serving-torch torch==2.13.0

The library is resolved without upper bounds, so that it moves to the newest of everything; each bound then
becomes the next minor release after the one that was locked. The environment with vLLM is resolved within
these bounds; that of the engines has nothing of the library, and no bounds. All are resolved with torch, and
lock neither it nor the CUDA packages that its default build brings: another build can take its place.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from locks.requirements import (
    ENGINES_IN,
    ENGINES_LOCK,
    LIBRARY_LOCK,
    PYPROJECT,
    SERVING_IN,
    SERVING_LOCK,
    asked,
    pinned,
    releases,
    without_upper_bound,
)
from moe_patch.io.files import write_text

OLDEST_PYTHON = "3.11"

BY_TORCH = re.compile(r"torch|triton|(cuda|nvidia)-.*")
"""What comes with torch and differs from build to build."""

BESIDE_VLLM = re.compile(r"torch|(cuda|nvidia)-.*")
"""The same where vLLM is: xgrammar asks for triton, with the CPU build of torch too."""

NOT_FOR_TEXT = ("torchaudio", "torchcodec", "torchvision")
"""vLLM asks for them for speech, video and images; they are built against another torch than the CPU's."""


@dataclass(frozen=True)
class Environment:
    """One lock to be made: what is wanted, the torch that it is for, and what is not locked."""

    lock: Path
    wanted: list[str]
    torch: str
    open: re.Pattern[str]
    left_out: tuple[str, ...] = ()

    def resolve(self, *, renew: bool) -> str:
        """The text of the lock, by uv; versions that are locked already are preferred unless `renew`.

        Raises CalledProcessError where nothing satisfies all requirements; uv has said why.
        """
        with TemporaryDirectory() as name:
            folder = Path(name)
            draft, overrides, excludes = folder / "draft", folder / "overrides", folder / "excludes"
            overrides.write_text(f"{self.torch}\n", encoding="utf-8")
            excludes.write_text("".join(f"{name}\n" for name in self.left_out), encoding="utf-8")
            if self.lock.exists() and not renew:
                shutil.copy(self.lock, draft)
            options = [f"--overrides={overrides}", f"--excludes={excludes}"]
            self._uv(draft, options)
            names = sorted(filter(self.open.fullmatch, releases(draft.read_text("utf-8"))))
            without = (f"--no-emit-package={name}" for name in names)
            self._uv(draft, [*options, "--generate-hashes", *without])
            return draft.read_text("utf-8")

    def _uv(self, draft: Path, options: Iterable[str]) -> None:
        fixed = ["--universal", f"--python-version={OLDEST_PYTHON}", "--no-emit-index-url", "--no-annotate"]
        command = ["uv", "pip", "compile", "--quiet", *fixed, "--custom-compile-command=make lock", *options]
        lines = "".join(f"{line}\n" for line in (*self.wanted, self.torch))
        subprocess.run([*command, f"--output-file={draft}", "-"], input=lines, text=True, check=True)


def next_minor(version: Version) -> str:
    """The first release that was not run when `version` was."""
    return f"{version.major}.{version.minor + 1}"


def with_bound(line: str, version: Version) -> str:
    """The requirement of `line`, bounded by the next minor release after `version`."""
    requirement = without_upper_bound(line)
    return f"{requirement}{',' if requirement.specifier else ''}<{next_minor(version)}"


def with_bounds(pyproject: str, locked: dict[str, list[Version]]) -> str:
    """The text of `pyproject.toml` with the upper bounds that follow from what is `locked`."""
    for line in asked(pyproject).bounded():
        newest = max(locked[canonicalize_name(Requirement(line).name)])
        pyproject = pyproject.replace(f'"{line}"', f'"{with_bound(line, newest)}"')
    return pyproject


def renew(torch: str, serving_torch: str, *, keep: bool) -> None:
    """Make all locks and the bounds, and write them once all are known."""
    pyproject = PYPROJECT.read_text(encoding="utf-8")
    wanted = [str(without_upper_bound(line)) for line in asked(pyproject).library()]
    library = Environment(LIBRARY_LOCK, wanted, torch, BY_TORCH).resolve(renew=not keep)
    pyproject = with_bounds(pyproject, releases(library) | {"torch": [pinned(Requirement(torch))]})
    wanted = [*_lines(SERVING_IN), *asked(pyproject).beside_vllm()]
    beside = Environment(SERVING_LOCK, wanted, serving_torch, BESIDE_VLLM, NOT_FOR_TEXT)
    serving = beside.resolve(renew=not keep)
    engines = Environment(ENGINES_LOCK, _lines(ENGINES_IN), torch, BY_TORCH).resolve(renew=not keep)
    texts = {LIBRARY_LOCK: library, SERVING_LOCK: serving, ENGINES_LOCK: engines, PYPROJECT: pyproject}
    for path, text in texts.items():
        write_text(path, text)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def main() -> int:
    """Parse the arguments; the exit status is uv's where it finds no solution."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("torch", help="the release that the library is tested with, as name==version")
    parser.add_argument("--serving-torch", required=True, help="the release that vLLM's CPU build is for")
    parser.add_argument("--keep", action="store_true", help="change only what has to change")
    arguments = parser.parse_args()
    try:
        renew(arguments.torch, arguments.serving_torch, keep=arguments.keep)
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())

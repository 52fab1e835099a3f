"""Runs commands on mutated files, in this process, and tells what went wrong."""

from __future__ import annotations

import random
import resource
import shutil
import signal
import tempfile
import traceback
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from click.testing import CliRunner

from moe_patch.cli import main
from tests.fuzz.commands import choose
from tests.fuzz.files import KINDS, Originals, special

SECONDS = 20
"""Longest time that a command may take."""

KIBIBYTES = 768 * 1024
"""Memory that the process may need more after a file than at the start."""

_WEIGHTS = {
    "patch": 60,
    "lock": 20,
    "signature": 6,
    "facts": 1,
    "recipe": 1,
    "key": 6,
    "record": 4,
    "originals": 1,
    "index": 1,
}


class Hang(BaseException):
    """A command took too long. No handler of errors is meant to catch it."""


@dataclass(frozen=True)
class Failure:
    """A mutated file, by its number, and what a command did with it."""

    number: int
    command: list[str]
    what: str


def fuzz(originals: Originals, seed: int, numbers: range) -> Iterator[Failure]:
    """Try the files of these numbers."""
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in numbers:
        chance = random.Random(f"{seed}:{number}")
        with tempfile.TemporaryDirectory(prefix="moe-patch-fuzz-") as name:
            yield from _try(originals, Path(name), number, chance)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if peak - start > KIBIBYTES:
            yield Failure(number, [], f"needs {(peak - start) // 1024} MiB more")
            start = peak


def _try(originals: Originals, here: Path, number: int, chance: random.Random) -> Iterator[Failure]:
    kind = chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
    file = _place(originals, here, kind, chance)
    for command in choose(kind, file, here, originals.model, chance):
        if (problem := _run(command)) is not None:
            yield Failure(number, command, problem)


def _place(originals: Originals, here: Path, kind: str, chance: random.Random) -> Path:
    """Put the valid files into a folder, and a mutated one in the place of one of them."""
    merged = kind in ("record", "originals", "index")
    for path in originals.folder.iterdir():
        if path.is_file():
            shutil.copy(path, here)
        elif path.name == "merged" and merged:
            shutil.copytree(path, here / "merged")
    file = here / chance.choice(KINDS[kind].names)
    if kind == "originals":
        file = next((here / "merged" / "moe_patch").iterdir())
    raw = file.read_bytes()
    if chance.random() < 0.02:
        special(file, chance)
    else:
        file.write_bytes(KINDS[kind].mutate(raw, chance))
    return file


def _run(command: list[str]) -> str | None:
    """What is wrong with how a command ended; None if nothing is."""
    try:
        with _limited():
            result = CliRunner().invoke(main, ["--quiet", *command], prog_name="moe-patch")
    except Hang:
        return f"takes more than {SECONDS} s"
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return "".join(traceback.format_exception(result.exception))
    if bad := [character for character in result.output if _obeyed(character)]:
        return f"prints {bad[0]!r}"
    return None


def _obeyed(character: str) -> bool:
    return character != "\n" and unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@contextmanager
def _limited() -> Iterator[None]:
    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

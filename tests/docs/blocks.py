"""The blocks of a document that are marked as runnable, and whether a run printed what stands there.

A block is marked by `<!-- run -->` in the line before it, or by `<!-- run: vllm -->` if it needs vLLM. In a
console block, each line that starts with `$ ` is a command of a shell, and the lines after it are what it
prints. A line `...` there stands for any number of lines, and `...` at the end of a line for the rest of it.
A command that ends in `&` goes on in the background once it has said the lines after it. A python block has
no output. A block below `<!-- file: NAME -->` is the text of a file, which is written when it is reached.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(
    r"^<!-- (?:run(?P<vllm>: vllm)?|file: (?P<file>[\w.]+)) -->\n```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_BACKGROUND = re.compile(r" &\s*(#.*)?$")
_FRAME = re.compile(r"[━─┏┓┗┛┡┩┳┻╇┠┨┌┐└┘├┤┬┴┼╋]+")
_VARYING = [
    (re.compile(r"\d+(\.\d+)? (ms|s|min)\b"), "a time"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:+.]+"), "a date"),
    (re.compile(r"sha256:[0-9a-f]+"), "a hash"),
]
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")
_EQUAL = 0.1
"""By what share figures may differ: they follow from rounding, which differs between processors."""


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a document, and what it says that the command prints; or a file and its text."""

    line: int
    language: str  # console or python; of a file, "file"
    command: str
    printed: tuple[str, ...] = ()
    text: str = ""

    @property
    def foreground(self) -> str:
        """The command without a comment and without `&`."""
        return _BACKGROUND.sub("", self.command)

    @property
    def in_background(self) -> bool:
        """Whether the command goes on while the next ones run."""
        return self.foreground != self.command


def runnable(document: Path, *, vllm: bool = False) -> list[Step]:
    """The commands of all marked blocks, in order; without those that need vLLM if there is none."""
    text = document.read_text(encoding="utf-8")
    steps: list[Step] = []
    for block in _BLOCK.finditer(text):
        if block["vllm"] and not vllm:
            continue
        first = text.count("\n", 0, block.start("text")) + 1
        if block["file"]:
            steps.append(Step(first, "file", block["file"], text=block["text"]))
        elif block["language"] == "python":
            steps.append(Step(first, "python", block["text"]))
        else:
            steps += _commands(block["text"].splitlines(), first)
    return steps


def _commands(lines: list[str], first: int) -> list[Step]:
    starts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
    assert starts, f"line {first}: a console block starts with a command"
    steps = []
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        after = start + 1
        while lines[after - 1].endswith("\\"):
            after += 1
        command = "\n".join(lines[start:after])[2:]
        steps.append(Step(first + start, "console", command, tuple(lines[after:end])))
    return steps


def differences(stated: tuple[str, ...], printed: str) -> str:
    """What is wrong with the stated lines; "" if the printed text has them and nothing between."""
    found = [line for line in map(_plain, printed.splitlines()) if line]
    at, free = 0, False
    for line in stated:
        if line.strip() == "...":
            free = True
        elif wanted := _plain(line):
            places = range(at, len(found)) if free else range(at, min(at + 1, len(found)))
            place = next((number for number in places if _same(wanted, found[number])), None)
            if place is None:
                return f"stated:  {wanted}\nprinted: {found[at] if at < len(found) else 'nothing more'}"
            at, free = place + 1, False
    return "" if free or at == len(found) else f"printed, and not stated: {found[at]}"


def shows(stated: tuple[str, ...], printed: str) -> bool:
    """Whether the stated lines are all in the printed text, each as a part of some line."""
    found = "\n".join(map(_plain, printed.splitlines()))
    return all(_plain(line) in found for line in stated if line.strip() != "...")


def _plain(line: str) -> str:
    """The line without what frames a table, which depends on its widths, and what differs in every run."""
    for pattern, name in _VARYING:
        line = pattern.sub(name, line)
    return " ".join(re.sub(r"[│┃]", " ", _FRAME.sub(" ", line)).split())


def _same(stated: str, printed: str) -> bool:
    if stated.endswith("..."):
        return printed.startswith(stated.removesuffix("...").rstrip())
    if _NUMBER.sub("#", stated) != _NUMBER.sub("#", printed):
        return False
    pairs = zip(_NUMBER.findall(stated), _NUMBER.findall(printed), strict=True)
    return all(_close(one, other) for one, other in pairs)


def _close(one: str, other: str) -> bool:
    """Whole numbers up to 20 count something that does not follow from rounding."""
    a, b = (float(text.replace(",", "")) for text in (one, other))
    if "." not in one and abs(a) <= 20:
        return a == b
    return math.isclose(a, b, rel_tol=_EQUAL, abs_tol=0.0)

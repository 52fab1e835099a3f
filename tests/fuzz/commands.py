"""The commands that take a file of a kind, with how often each is run."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

_LIGHT, _HEAVY = 20, 1

Command = tuple[int, Sequence[str]]

# In these, {file} is the mutated file, {here} the folder around it, and {model} a folder with a tiny model.
_PATCH: list[Command] = [
    (_LIGHT, ("inspect", "{file}", "--all")),
    (_LIGHT, ("inspect", "{file}", "--json")),
    (_LIGHT, ("log", "{file}")),
    (_LIGHT, ("log", "{file}", "--json", "--search", "{here}")),
    (_LIGHT, ("verify", "{file}")),
    (_LIGHT, ("diff", "{file}", "{here}/solved.safetensors")),
    (_LIGHT, ("diff", "{here}/solved.safetensors", "{file}", "--json")),
    (_LIGHT, ("drop", "{file}", "--fact", "fact-0", "-o", "{here}/dropped.safetensors", "--force")),
    (_LIGHT, ("drop", "{file}", "--fact", "fact-1", "-o", "{here}/dropped.safetensors", "--force", "--json")),
    (_LIGHT, ("sign", "{file}", "--key", "{here}/key")),
    (
        _LIGHT,
        ("stack", "init", "{file}", "{here}/other.safetensors", "--stack", "{here}/s", "--allow-conflicts"),
    ),
    (_LIGHT, ("stack", "add", "{file}", "--stack", "{here}/moe-patch.stack", "--allow-conflicts")),
    (_HEAVY, ("verify", "{file}", "--model", "{model}", "--no-ask", "--json")),
    (_HEAVY, ("verify", "{file}", "--model", "{model}")),
    (_HEAVY, ("merge", "--model", "{model}", "--patch", "{file}", "--out", "{here}/out")),
    (_HEAVY, ("export", "{file}", "--format", "peft", "--model", "{model}", "--out", "{here}/out")),
    (
        _HEAVY,
        (
            "export",
            "{file}",
            "--format",
            "peft",
            "--form",
            "split",
            "--model",
            "{model}",
            "--out",
            "{here}/out",
        ),
    ),
    (_HEAVY, ("ask", "Hello", "--model", "{model}", "--patch", "{file}", "--mode", "hook")),
    (_HEAVY, ("eval", "{file}", "--model", "{model}")),
]
_STACK = "{file}"
_LOCK: list[Command] = [
    (_LIGHT, ("stack", "list", "--stack", _STACK)),
    (_LIGHT, ("stack", "list", "--stack", _STACK, "--json")),
    (_LIGHT, ("stack", "check", "--stack", _STACK)),
    (_LIGHT, ("stack", "check", "--stack", _STACK, "--json")),
    (_LIGHT, ("stack", "resolve", "--stack", _STACK, "-o", "{here}/out.safetensors", "--force")),
    (_LIGHT, ("stack", "diff", "--stack", _STACK)),
    (_LIGHT, ("stack", "diff", _STACK, "--stack", "{here}/moe-patch.stack")),
    (_LIGHT, ("stack", "move", "1", "2", "--stack", _STACK)),
    (_LIGHT, ("stack", "disable", "1", "--stack", _STACK)),
    (_LIGHT, ("stack", "enable", "2", "--stack", _STACK)),
    (_LIGHT, ("stack", "remove", "2", "--stack", _STACK)),
    (_LIGHT, ("stack", "combine", "solve", "--stack", _STACK)),
    (_LIGHT, ("stack", "undo", "--stack", _STACK)),
    (_LIGHT, ("stack", "add", "{here}/fits.safetensors", "--stack", _STACK)),
    (_HEAVY, ("merge", "--model", "{model}", "--stack", _STACK, "--out", "{here}/out")),
]
_MERGED: list[Command] = [(1, ("unmerge", "{here}/merged", "--out", "{here}/out"))]
_BUILD = ("build", "--model", "{model}", "--out", "{here}/out.safetensors", "--force", "--no-projection")
COMMANDS: dict[str, list[Command]] = {
    "patch": _PATCH,
    "signature": [
        (1, ("verify", "{here}/solved.safetensors", "--require-signature", "--key", "{here}/key.pub")),
        (1, ("verify", "{here}/solved.safetensors", "--key", "{here}/key.pub", "--json")),
    ],
    "lock": _LOCK,
    "record": _MERGED,
    "originals": _MERGED,
    "index": [
        *_MERGED,
        (
            1,
            (
                "merge",
                "--model",
                "{here}/merged",
                "--patch",
                "{here}/fits.safetensors",
                "--out",
                "{here}/out",
            ),
        ),
    ],
    "facts": [
        (1, (*_BUILD, "--edits", "{file}", "--layers", "1", "--set", "targets.steps=1")),
        (1, ("eval", "{here}/fits.safetensors", "--model", "{model}", "--edits", "{file}")),
    ],
    "recipe": [(1, (*_BUILD, "--edits", "{here}/facts.jsonl", "--recipe", "{file}"))],
    "key": [
        (1, ("sign", "{here}/solved.safetensors", "--key", "{file}")),
        (1, ("verify", "{here}/solved.safetensors", "--require-signature", "--key", "{file}")),
    ],
}

_ALL = ("-o", "{here}/all.safetensors", "--force")
_AFTER: dict[tuple[str, ...], list[Sequence[str]]] = {
    ("stack", "init"): [
        ("stack", "list", "--stack", "{here}/s"),
        ("stack", "check", "--stack", "{here}/s"),
        (
            "stack",
            "resolve",
            "--stack",
            "{here}/s",
            "--allow-conflicts",
            *_ALL,
        ),
        (
            "stack",
            "resolve",
            "--stack",
            "{here}/s",
            "--combine",
            "add",
            *_ALL,
        ),
    ],
    ("stack", "add"): [("stack", "check", "--stack", "{here}/moe-patch.stack", "--json")],
    ("drop",): [("inspect", "{here}/dropped.safetensors")],
}


def choose(kind: str, file: Path, here: Path, model: Path, chance: random.Random) -> list[list[str]]:
    """A command for the file, and those that read what it writes."""
    known = COMMANDS[kind]
    chosen = chance.choices([words for _, words in known], [weight for weight, _ in known])[0]
    after = next((more for start, more in _AFTER.items() if tuple(chosen[: len(start)]) == start), [])
    places = {"file": str(file), "here": str(here), "model": str(model)}
    return [[word.format(**places) for word in words] for words in (chosen, *after)]

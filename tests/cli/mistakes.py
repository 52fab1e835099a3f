"""Command lines with mistakes: sound ones, found by walking the commands, in which a few things are broken.

A parameter's name says what it takes (a patch, a model, facts, ...); what a name does not say, its type does.
So a new command is covered without a word here.
"""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import click
from hypothesis import strategies as st

from moe_patch.cli import main
from moe_patch.cli.options import STREAM

Draw = Callable[[st.SearchStrategy[Any]], Any]

#: What a parameter takes, by its name: files and folders of the workshop.
_TAKES = {
    "edits": "facts.jsonl",
    "edit_paths": "facts.jsonl",
    "corpus": "text.txt",
    "recipe": "recipe.yaml",
    "model": "model",
    "base": "model",
    "merged": "merged",
    "patch_path": "patch.safetensors",
    "patch_paths": "patch.safetensors",
    "paths": "other.safetensors",
    "patch": "patch.safetensors",
    "patches": "patch.safetensors",
    "first_path": "patch.safetensors",
    "second_path": "other.safetensors",
    "other": "other.safetensors",
    "stack": "moe-patch.stack",
    "lock_path": "moe-patch.stack",
    "key_path": "key",
    "key_paths": "key.pub",
    "token_file": "token",
    "folders": ".",
    "offload_folder": "offload",
    "out": "new",
    "heatmap": "heat.svg",
    "plot": "plot.svg",
    "reference": "hf://org/name",
    "names": "patch",
    "name": "patch",
    "ids": "0",
    "layers": "1",
    "method": "moeedit",
    "methods": "moeedit",
    "modes": "batch",
    "seeds": "0",
    "text": "text.txt",
    "suite_name": "rivals",
    "first": "runs",
    "second": "runs",
    "html": "page.html",
    "csv_path": "figures.csv",
    "settings": "targets.steps=2",
    "unseen": "edit",
    "prompts": "Town 1 lies in",
    "urls": "http://127.0.0.1:9",
    "adapters": "a=adapter",
    "allow": "hf://org",
    "device_map": "cpu",
    "base_model": "org/base",
}

#: Parameters that a sound command line has although they are optional: without them there is nothing to do,
#: or the demo model would be opened.
_NEEDED = {
    "model",
    "base",
    "corpus",
    "unseen",
    "layers",
    "settings",
    "prompts",
    "patch_paths",
    "lock_path",
    "paths",
    "out",
    "methods",
    "edit_paths",
}

#: What a command would need minutes, or an answer, for; and what excludes what is above.
_LEFT_OUT = {("doctor", "tested"), ("sign", "passphrase"), ("merge", "stack")}

_NONSENSE = (
    *("", "-1", "nope", "nan", "1e400", "∞", "9" * 40, "../..", "./gone/away", "a" * 300),
    *("hf://", "=", "ridge=2020-13-45", "targets={"),
)
_VALUES = st.sampled_from([None, -1, 10**12, 1.5, "", "x", [], {}, [[]], True])


def commands(group: click.Group = main, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command, including those of groups."""
    for name, command in group.commands.items():
        inside = (*words, name)
        yield from commands(command, inside) if isinstance(command, click.Group) else [inside]


@dataclass
class Attempt:
    """One command line in a copy of the workshop, with what is wrong about it."""

    words: list[str]
    environment: dict[str, str | None] = field(default_factory=dict)
    refused: tuple[str, str] | None = None  # a path, and the system call that the system refuses there

    @contextmanager
    def conditions(self) -> Iterator[None]:
        """The environment, and the refusal."""
        with ExitStack() as stack:
            stack.enter_context(mock.patch.dict(os.environ))
            for name, value in self.environment.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})
            if self.refused is not None:
                stack.enter_context(_refusing(*self.refused))
            yield


def draw_attempt(draw: Draw, words: tuple[str, ...], workshop: Path, here: Path) -> Attempt:
    """A command line with one or two mistakes; `here` becomes a copy of the workshop, with broken things."""
    shutil.copytree(workshop, here, symlinks=True)
    command = _command(words)
    chosen = [parameter for parameter in command.params if _is_used(draw, words[-1], parameter)]
    files = [n for n, parameter in enumerate(chosen) if _is_place(parameter, here)]  # break these more often
    mistakes = [*range(len(chosen)), *(3 * files), "environment", "system"]
    wrong = draw(st.lists(st.sampled_from(mistakes), min_size=1, max_size=2))
    options: list[str] = []
    arguments: list[str] = []
    for number, parameter in enumerate(chosen):
        value = _broken(draw, parameter, here) if number in wrong else _sound(draw, parameter)
        if isinstance(parameter, click.Argument):
            arguments += [] if value is None else [value]
        elif value is None:
            options.append(draw(st.sampled_from([*parameter.opts, *parameter.secondary_opts])))
        else:
            options += [parameter.opts[-1], value]
    attempt = Attempt([*words, *options, "--", *arguments])
    if "environment" in wrong:
        attempt.environment = draw(st.sampled_from(_ENVIRONMENTS))
    if "system" in wrong:
        names = sorted(str(path.relative_to(here)) for path in here.rglob("*"))
        attempt.refused = draw(st.tuples(st.sampled_from([*names, "new", "."]), st.sampled_from(_CALLS)))
    return attempt


_ENVIRONMENTS: list[dict[str, str | None]] = [
    {"MOE_PATCH_CACHE": "facts.jsonl"},
    {"MOE_PATCH_CACHE": "gone\n/\x7f"},
    {"MOE_PATCH_CACHE": "a" * 300},
    {"MOE_PATCH_CACHE": None, "XDG_CACHE_HOME": None, "HOME": "/dev/null"},
    {"SOURCE_DATE_EPOCH": "yesterday"},
    {"SOURCE_DATE_EPOCH": "9" * 30},
    {"MOE_PATCH_TOKEN": "short"},
    {"MOE_PATCH_TOKEN_FILE": "gone"},
    {"MOE_PATCH_ALLOW": "hf://\nnowhere"},
    {"MOE_PATCH_DRAIN_SECONDS": "soon"},
    {"HF_HOME": "facts.jsonl"},
]


def _command(words: tuple[str, ...]) -> click.Command:
    found: click.Command = main
    for word in words:
        assert isinstance(found, click.Group)
        found = found.commands[word]
    return found


def _is_used(draw: Draw, command: str, parameter: click.Parameter) -> bool:
    name = str(parameter.name)
    if (command, name) in _LEFT_OUT:
        return False
    return parameter.required or name in _NEEDED or draw(st.integers(0, 4)) == 0


def _is_place(parameter: click.Parameter, here: Path) -> bool:
    """Whether the parameter takes a file or a folder."""
    takes = _TAKES.get(str(parameter.name), "")
    return isinstance(parameter.type, click.Path) or bool(takes and (here / takes).exists())


def _sound(draw: Draw, parameter: click.Parameter) -> str | None:
    """A value as it should be; None for a flag."""
    if isinstance(parameter, click.Option) and parameter.is_flag:
        return None
    if isinstance(parameter.type, click.Choice) and parameter.name not in _TAKES:
        return str(draw(st.sampled_from(list(parameter.type.choices))))
    if isinstance(parameter.type, (click.IntRange, click.FloatRange)) or parameter.type is click.INT:
        return "1"
    return _TAKES.get(str(parameter.name), "1")


def _broken(draw: Draw, parameter: click.Parameter, here: Path) -> str | None:
    """A value that is wrong: nonsense, or a file or folder that is broken in some way."""
    if isinstance(parameter, click.Option) and parameter.is_flag:
        return None
    takes = _TAKES.get(str(parameter.name), "")
    ways = [lambda: str(draw(st.sampled_from(_NONSENSE)))]
    if _is_place(parameter, here):
        if parameter.type is not STREAM:  # which would wait for someone to write
            ways.append(lambda: _odd_place(draw, here))
        ways += [
            lambda: str(draw(st.sampled_from(sorted(set(_TAKES.values()))))),
            lambda: _damaged(draw, here, takes or "facts.jsonl"),
            lambda: _damaged(draw, here, takes or "facts.jsonl"),
            lambda: _damaged(draw, here, takes or "facts.jsonl"),
        ]
    return draw(st.sampled_from(ways))()


def _odd_place(draw: Draw, here: Path) -> str:
    """Something that is no regular file: a pipe, a device, a link that leads nowhere or to itself."""
    kind = draw(st.sampled_from(["pipe", "nowhere", "loop", "/dev/null", "/dev/zero", "empty", "folder"]))
    if kind.startswith("/"):
        return str(kind)
    place = here / f"odd-{kind}"
    if not place.is_symlink() and not place.exists():
        if kind == "pipe":
            os.mkfifo(place)
        elif kind == "folder":
            place.mkdir()
        elif kind == "empty":
            place.touch()
        else:
            place.symlink_to("gone" if kind == "nowhere" else place.name)
    return place.name


def _damaged(draw: Draw, here: Path, name: str) -> str:
    """The file `name`, or a file of the folder `name`, damaged."""
    place = here / name
    if place.is_dir():
        inside = sorted(path for path in place.rglob("*") if path.is_file())
        if not inside:
            return name
        place = draw(st.sampled_from(inside))
    how = draw(
        st.sampled_from(["gone", "cut", "flipped", "garbage", "folder", "value", "value", "value", "key"])
    )
    if not place.is_file() or place.is_symlink():
        return name
    raw = place.read_bytes()
    if how in ("gone", "folder"):
        place.unlink()
        if how == "folder":
            place.mkdir()
    elif how == "garbage":
        place.write_bytes(draw(st.binary(max_size=40)))
    elif how == "cut":
        place.write_bytes(raw[: draw(st.integers(0, max(len(raw) - 1, 0)))])
    elif how == "flipped":
        at = draw(st.integers(0, len(raw) - 1)) if raw else 0
        place.write_bytes(raw[:at] + bytes([raw[at] ^ (1 << draw(st.integers(0, 7)))]) + raw[at + 1 :])
    else:
        place.write_bytes(_other_value(draw, raw, removed=how == "key"))
    return name


def _other_value(draw: Draw, raw: bytes, *, removed: bool) -> bytes:
    """A JSON text, or its first line, with one value replaced or removed; other files stay as they are."""
    first, newline, rest = raw.partition(b"\n")
    for text, after in ((raw, b""), (first, newline + rest)):
        try:
            value = json.loads(text)
        except ValueError:
            continue
        places = list(_places(value))
        if not places:
            return raw
        holder, key = draw(st.sampled_from(places))
        if removed:
            del holder[key]
        else:
            holder[key] = draw(_VALUES)
        return json.dumps(value).encode() + after
    return raw


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place inside a JSON value, as its container and its key."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in list(inside)[:40]:
        yield value, key
        yield from _places(below)


_CALLS = ("open", "stat", "scandir", "fsync", "mkdir", "replace")


@contextmanager
def _refusing(name: str, call: str) -> Iterator[None]:
    """The system refuses one call for a path: it may not be read, or the disk is full."""
    cwd = Path.cwd()
    place = os.fspath(cwd / name)
    code = errno.ENOSPC if call == "fsync" else errno.EACCES
    module = io if call == "open" else os
    real = getattr(module, call)

    def refuse(path: Any = ".", *arguments: Any, **named: Any) -> Any:
        named_here = not isinstance(path, int) and os.fspath(Path(cwd, os.fspath(path))) == place
        if call == "fsync" or named_here:
            raise OSError(code, os.strerror(code))
        return real(path, *arguments, **named)

    with mock.patch.object(module, call, refuse), ExitStack() as stack:
        if call == "open":
            stack.enter_context(mock.patch("builtins.open", refuse))
        yield

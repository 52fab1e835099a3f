"""The names on our side of docs/from_easyedit.md, against the code."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import click

import moe_patch
from moe_patch.cli import main
from moe_patch.methods import METHODS, get_method
from moe_patch.targets.options import TargetOptions

PAGE = (Path(__file__).parents[2] / "docs" / "from_easyedit.md").read_text(encoding="utf-8")


def ours(section: str) -> str:
    """The second column of a section's table, without its head."""
    body = PAGE.partition(f"## {section}\n")[2].partition("\n## ")[0]
    rows = [line.removeprefix("| ").partition(" | ") for line in body.splitlines() if line.startswith("| ")]
    return "\n".join(second for _, _, second in rows[1:])


def test_fields_and_calls_exist() -> None:
    named = set(re.findall(r"`([a-z_]+)`", ours("Fields of a fact")))
    assert named
    assert named <= {field.name for field in fields(moe_patch.Fact)}
    called = set(re.findall(r"moe_patch\.([a-z_]+)", ours("Calls")))
    assert called
    assert all(hasattr(moe_patch, name) for name in called)


def test_options_of_builds_exist() -> None:
    text = ours("Hyper-parameters")
    command = main.commands["build"]
    assert isinstance(command, click.Command)
    known = {option for one in command.params for option in one.opts}
    assert set(re.findall(r"--[a-z-]+", text)) <= known
    assert set(re.findall(r"`targets\.([a-z_]+)`", text)) <= set(TargetOptions.model_fields)
    of_methods = re.findall(r"(`.*), of `--method ([a-z-]+)`", text)
    assert len(of_methods) >= 5
    for names, method in of_methods:
        options = get_method(method).Options.model_fields
        assert set(re.findall(r"`([a-z_]+)`", names.partition(":")[0])) <= set(options), method
    assert {"tau", "energy", "corpus_tokens"} <= set(get_method("moeedit").Options.model_fields)


def test_methods_exist() -> None:
    rows = [line for line in ours("Methods").splitlines() if not line.startswith("not here")]
    named = {name for row in rows for name in re.findall(r"`([a-z-]+)`", row)}
    assert len(named) > 5
    assert named <= set(METHODS)

"""Nothing that a file or its name says reaches the terminal as more than text."""

from __future__ import annotations

import json
import logging
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result

import moe_patch.cli
from moe_patch.cli.console import log_to_stderr
from moe_patch.data.facts import Fact
from moe_patch.patch import save
from tests.patch.patches import delta_patch

Run = Callable[..., Result]

EVIL = "\x1b[2J\x07\u202eevil\u200b\x9b1m\n# x"


def harmless(text: str) -> bool:
    kinds = {unicodedata.category(character) for character in text if character != "\n"}
    return not kinds & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """A patch that says it in every text, in a file that is called so."""
    fact = Fact(EVIL, f"{EVIL} {{}} is", EVIL.strip(), f"x{EVIL}", f"y{EVIL}")
    patch = delta_patch(1, facts=(fact,), method=EVIL, results=({EVIL: 1.0},), tools={EVIL: EVIL})
    patch = replace(patch, hyperparameters={EVIL: EVIL}, parents=())
    path = tmp_path / f"{EVIL}.safetensors"
    save(patch, path)
    return path


@pytest.mark.parametrize(
    "command", [["inspect"], ["inspect", "--json"], ["log"], ["log", "--json"], ["verify"]]
)
def test_a_patch(run: Run, evil: Path, command: list[str]) -> None:
    found = run(*command, evil)
    assert found.exit_code == 0, found.output
    assert "evil" in found.output
    assert harmless(found.output)
    if "--json" in command:
        assert repr(EVIL) in str(json.loads(found.output))


def test_two_patches_and_stacks(run: Run, evil: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save(delta_patch(2, seed=1), other)
    for command in (
        ["diff", evil, other],
        ["stack", "init", evil, "--stack", tmp_path / "s"],
        ["stack", "list", "--stack", tmp_path / "s"],
        ["stack", "check", "--stack", tmp_path / "s"],
        ["stack", "diff", "--stack", tmp_path / "s"],
        ["drop", evil, "--fact", "none", "-o", tmp_path / "out.safetensors"],
        ["inspect", tmp_path / f"no{EVIL}"],
        ["drop", evil, "--fact", "none", "-o", tmp_path / EVIL / "out.safetensors"],
    ):
        found = run(*command)
        assert harmless(found.output), command


def test_log_records(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr(logging.WARNING)
    try:
        logging.getLogger("moe_patch.test").warning("fact %s", EVIL)
        assert "evil" in (said := capsys.readouterr().err)
        assert harmless(said)
    finally:
        logging.getLogger("moe_patch").handlers = []


def test_everything_is_printed_by_the_functions_that_escape() -> None:
    folder = Path(moe_patch.cli.__file__).parent
    found = {path.name for path in folder.rglob("*.py") if "click.echo(" in path.read_text(encoding="utf-8")}
    assert found == {"console.py", "__init__.py"}  # the latter says that it was interrupted

"""What needs no model, and no patch, waits for no library that does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from moe_patch.methods import METHODS
from tests.cli.conftest import Run

HEAVY = {"torch", "transformers", "huggingface_hub"}

RUN = """
import sys
from moe_patch.cli import main
try:
    main(sys.argv[1:], prog_name="moe-patch")
except SystemExit as end:
    print("ended with", end.code or 0, file=sys.stderr)
print("imported", *sys.modules, file=sys.stderr)
"""


def modules(*words: str, folder: Path, environment: dict[str, str] | None = None) -> tuple[str, set[str]]:
    """What a command prints, and the modules that it has imported. The command must succeed."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *words],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env=os.environ | (environment or {}),
    )
    assert "ended with 0\n" in done.stderr, done.stderr
    return done.stdout, set(done.stderr.rpartition("imported ")[2].split())


@pytest.fixture
def stack_folder(run: Run, patch_file: Path, tmp_path: Path) -> Path:
    assert run("stack", "init", patch_file, "--stack", tmp_path / "moe-patch.stack").exit_code == 0
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        "list",
        "list --json",
        "disable random",
        "enable 1 --allow-conflicts",
        "move 1 1",
        "combine add",
        "remove random",
        "init --stack other",
    ],
)
def test_a_lock_file_is_listed_and_changed_without_torch(stack_folder: Path, words: str) -> None:
    _, imported = modules("stack", *words.split(), folder=stack_folder)
    assert not HEAVY & imported


def test_changes_of_a_lock_file_are_shown_and_undone_without_torch(run: Run, stack_folder: Path) -> None:
    assert run("stack", "combine", "add", "--stack", stack_folder / "moe-patch.stack").exit_code == 0
    for words in ("diff", "undo"):
        printed, imported = modules("stack", words, folder=stack_folder)
        assert not HEAVY & imported
        assert "add" in printed or "revision 0" in printed


def test_methods_complete_without_any_library(tmp_path: Path) -> None:
    environment = {"COMP_WORDS": "moe-patch build --method mo", "COMP_CWORD": "3"}
    printed, imported = modules(
        folder=tmp_path, environment=environment | {"_MOE_PATCH_COMPLETE": "bash_complete"}
    )
    assert printed.split() == [f"plain,{name}" for name in sorted(METHODS) if name.startswith("mo")]
    assert not (HEAVY | {"pydantic", "numpy"}) & imported

"""The marked blocks of the README and of docs/, run in order, each document in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import Step, differences, runnable

ROOT = Path(__file__).parents[2]
DOCUMENTS = [path for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if runnable(path)]
COMMAND = f'#!/bin/sh\nexec {sys.executable} -c "from moe_patch.cli import main; main()" "$@"\n'


def surroundings(folder: Path) -> dict[str, str]:
    """The environment of a user who has installed the command, in a clone, before a wide terminal."""
    command = folder / "bin" / "moe-patch"
    command.parent.mkdir()
    command.write_text(COMMAND, encoding="utf-8")
    command.chmod(0o755)
    (folder / "recipes").symlink_to(ROOT / "recipes")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MOE_PATCH_")}
    return inherited | {
        "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "MOE_PATCH_CACHE": str(folder / "cache"),
        "MOE_PATCH_STATE": str(folder / "state"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "132",
    }


def run(step: Step, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    shell = [sys.executable, "-c"] if step.language == "python" else ["sh", "-ec"]
    return subprocess.run(
        [*shell, step.command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_can_be_followed_as_it_is_written(document: Path, tmp_path: Path) -> None:
    environment = surroundings(tmp_path)
    for step in runnable(document):
        place = f"{document.name}:{step.line}: {step.command}"
        if step.language == "file":
            (tmp_path / step.command).write_text(step.text, encoding="utf-8")
            continue
        done = run(step, tmp_path, environment)
        assert done.returncode == 0, f"{place}\n{done.stdout}\n{done.stderr}"
        if step.printed:
            wrong = differences(step.printed, done.stdout)
            assert not wrong, f"{place}\n{wrong}\n\nall of it:\n{done.stdout}"


def test_the_readme_and_the_tutorial_are_run() -> None:
    assert {"README.md", "tutorial.md"} <= {path.name for path in DOCUMENTS}

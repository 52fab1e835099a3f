"""Runs the steps of a document as a user would who has installed the command, in an empty folder."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.docs.blocks import Step, differences, shows

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_COMMAND = f'#!/bin/sh\nexec {sys.executable} -c "from moe_patch.cli import main; main()" "$@"\n'
_OURS = re.compile("MOE_PATCH_|VLLM_(?!NO_USAGE)")
_STARTED_SECONDS = 300.0
"""In which a command in the background has to say what is stated: an engine compiles its model first."""


def follow(document: str, steps: Sequence[Step], folder: Path) -> None:
    """Run the steps in the folder, and compare what they print with what is stated.

    Raises:
        AssertionError: a step fails, or prints something else.
    """
    environment = surroundings(folder)
    with ExitStack() as running:
        for step in steps:
            place = f"{document}:{step.line}: {step.command}"
            if step.language == "file":
                (folder / step.command).write_text(step.text, encoding="utf-8")
            elif step.in_background:
                running.enter_context(_in_background(step, folder, environment, place))
            else:
                _run(step, folder, environment, place)


def surroundings(folder: Path) -> dict[str, str]:
    """The environment of a user who has installed the command, in a clone, before a wide terminal."""
    command = folder / "bin" / "moe-patch"
    command.parent.mkdir()
    command.write_text(_COMMAND, encoding="utf-8")
    command.chmod(0o755)
    (folder / "recipes").symlink_to(ROOT / "recipes")
    inherited = {name: value for name, value in os.environ.items() if not _OURS.match(name)}
    return inherited | {
        "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "MOE_PATCH_CACHE": str(folder / "cache"),
        "MOE_PATCH_STATE": str(folder / "state"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "132",
    }


def _run(step: Step, folder: Path, environment: dict[str, str], place: str) -> None:
    shell = [sys.executable, "-c"] if step.language == "python" else ["sh", "-ec"]
    done = subprocess.run(
        [*shell, step.command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{place}\n{done.stdout}\n{done.stderr}"
    if step.printed:
        wrong = differences(step.printed, done.stdout)
        assert not wrong, f"{place}\n{wrong}\n\nall of it:\n{done.stdout}"


@contextmanager
def _in_background(step: Step, folder: Path, environment: dict[str, str], place: str) -> Iterator[None]:
    """The command runs until the document ends. It has to say what is stated, and may say more."""
    log = folder / "background.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["sh", "-c", f"exec {step.foreground}"],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        ends = time.monotonic() + _STARTED_SECONDS
        while not shows(step.printed, log.read_text(errors="replace")):
            assert process.poll() is None, f"{place}\nended:\n{log.read_text(errors='replace')}"
            assert time.monotonic() < ends, f"{place}\nnot said:\n{log.read_text(errors='replace')}"
            time.sleep(0.2)
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)

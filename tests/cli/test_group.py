"""Common behaviour of all commands: help, errors, interruption, standard output and standard error."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch

from moe_patch.cli import INTERRUPTED, main
from moe_patch.errors import FactError
from tests.cli.conftest import Run


def commands() -> dict[str, click.Command]:
    """Every command, including those of groups, by the words to type."""
    found: dict[str, click.Command] = {}
    for name, command in main.commands.items():
        inner = command.commands if isinstance(command, click.Group) else {}
        found |= {name: command} | {f"{name} {key}": value for key, value in inner.items()}
    return found


def test_every_command_has_examples_that_it_understands(run: Run) -> None:
    assert {
        "build",
        "eval",
        "inspect",
        "ask",
        "stack",
        "drop",
        "diff",
        "log",
        "merge",
    } <= main.commands.keys()
    known = {
        name: {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
        for name, command in commands().items()
    }
    for name in known:
        shown = run(*name.split(), "--help").stdout
        examples = [line.split() for line in shown.splitlines() if line.strip().startswith("moe-patch ")]
        assert examples, name
        for words in examples:
            of = " ".join(words[1:3]) if " ".join(words[1:3]) in known else words[1]
            own = words[: words.index("--")] if "--" in words else words  # the rest is another program's
            used = {word for word in own if re.match("--?[a-z]", word)}
            assert used <= known[of], " ".join(words)


def test_help_and_completion_import_neither_torch_nor_transformers() -> None:
    code = "import sys, moe_patch.cli; sys.exit(bool({'torch', 'transformers'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


WARNS = """
import logging, warnings
from moe_patch.cli.console import hide_notices, log_to_stderr
logging.getLogger("underneath").addHandler(logging.StreamHandler())
log_to_stderr({level})
hide_notices("underneath")
warnings.warn("`old` is deprecated", FutureWarning)
logging.getLogger("underneath.part").warning("`older` is deprecated")
logging.getLogger("underneath.part").warning("the disk is full")
warnings.warn("the weights are odd")
"""


@pytest.mark.parametrize(("level", "shown"), [("logging.WARNING", False), ("logging.INFO", True)])
def test_notices_of_the_libraries_underneath_are_for_developers(level: str, shown: bool) -> None:
    code = [sys.executable, "-c", WARNS.format(level=level)]
    said = subprocess.run(code, capture_output=True, text=True, check=True).stderr
    assert ("`old` is deprecated" in said, "`older` is deprecated" in said) == (shown, shown)
    assert "the disk is full" in said
    assert "the weights are odd" in said


def test_a_build_says_nothing_that_is_not_its_own(model: Path, edits: Path, tmp_path: Path) -> None:
    command = ["build", "--edits", edits, "--model", model, "--layers", "1", "--no-projection"]
    command += ["--set", "targets.steps=2", "--out", tmp_path / "p.safetensors"]
    everything = [sys.executable, "-W", "default", "-c", "from moe_patch.cli import main; main()", *command]
    done = subprocess.run([str(word) for word in everything], capture_output=True, text=True, check=True)
    too_few = r"WARNING layer 1: the search for target values ended [^:]*: 3 out of steps .*loss [\d.]+\)"
    assert re.fullmatch(too_few, " ".join(done.stderr.split()))
    assert "arning" not in done.stdout
    assert "deprecat" not in done.stdout


def test_the_completion_hint_names_the_variable_that_click_listens_to(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 'eval "$(_MOE_PATCH_COMPLETE=bash_source moe-patch)"' in run("--help").stdout
    monkeypatch.setenv("_MOE_PATCH_COMPLETE", "zsh_source")
    assert "compdef" in run().stdout


def test_methods_complete(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_MOE_PATCH_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "moe-patch build --method moe")
    monkeypatch.setenv("COMP_CWORD", "3")
    assert "plain,moeedit" in run().stdout


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """A command that raises what is put into this list."""
    raised: list[BaseException] = []

    @click.command()
    def fail() -> None:
        raise raised[0]

    monkeypatch.setitem(main.commands, "fail", fail)
    return raised


def test_an_expected_error_is_one_line_and_exit_code_one(run: Run, failing: list[BaseException]) -> None:
    failing.append(FactError("facts.jsonl:3: subject:\n  expected it in the prompt"))
    result = run("fail")
    assert result.exit_code == 1
    assert result.stderr == "Error: facts.jsonl:3: subject: expected it in the prompt\n"
    assert result.stdout == ""


def test_a_defect_is_not_dressed_up_as_an_expected_error(run: Run, failing: list[BaseException]) -> None:
    failing.append(RuntimeError("a defect"))
    assert isinstance(run("fail").exception, RuntimeError)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_exhausted_memory_is_one_line_with_what_to_do(
    run: Run, failing: list[BaseException], error: BaseException
) -> None:
    failing.append(error)
    result = run("fail")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: there is not enough memory: take smaller batches")


def test_a_working_folder_that_is_gone_is_one_line(
    run: Run, failing: list[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    result = run("fail")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "Error: the working folder is gone" in result.stderr
    monkeypatch.chdir(tmp_path)  # the folder that pytest wants to come back from


@pytest.mark.parametrize("number", ["nan", "inf", "1e400"])
def test_shares_and_bounds_are_finite_numbers(run: Run, tmp_path: Path, number: str) -> None:
    result = run("verify", tmp_path / "none", "--at-least", number)
    assert result.exit_code == 2
    assert "Invalid value for '--at-least'" in result.stderr


def test_a_pipe_or_a_device_is_no_file_to_read_or_write(run: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for words in (
        ("inspect", tmp_path / "pipe"),
        ("stack", "list", "--stack", tmp_path / "pipe"),
        ("stack", "resolve", "--out", "/dev/null"),
    ):
        result = run(*words)
        assert result.exit_code == 2
        assert "is no regular file" in result.stderr


def test_ctrl_c_ends_with_the_code_that_shells_expect(run: Run, failing: list[BaseException]) -> None:
    failing.append(KeyboardInterrupt())
    result = run("fail")
    assert result.exit_code == INTERRUPTED == 130
    assert "Interrupted" in result.stderr


def test_no_file_is_an_error_of_use(run: Run, tmp_path: Path) -> None:
    result = run("inspect", tmp_path / "missing.safetensors")
    assert result.exit_code == 2
    assert "does not exist" in result.stderr

"""`moe-patch chat`: every line is answered by both states; a terminal shows answers being written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from moe_patch.cli.answers import answers_view
from tests.cli.conftest import Run
from tests.tiny import tiny_base

PROMPTS = ("Town 1 lies in", "Village 2 lies in")


def test_each_line_has_the_answers_that_ask_gives(run: Run, patch_file: Path, model: Path) -> None:
    how = ("--patch", patch_file, "--model", model, "--max-tokens", "8")
    given = f"{PROMPTS[0]}\n\n  {PROMPTS[1]}  \n"
    result = run("chat", *how, "--json", given=given)
    assert result.exit_code == 0, result.stderr
    answers = json.loads(run("ask", *PROMPTS, *how, "--json").stdout)["answers"]
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {"prompt": one["prompt"], "answers": {"before": one["before"], "after": one["after"]}}
        for one in answers
    ]


def test_it_ends_at_quit_and_at_the_end_of_the_input(run: Run, patch_file: Path, model: Path) -> None:
    how = ("chat", "--patch", patch_file, "--model", model, "--max-tokens", "2")
    result = run(*how, given=f"{PROMPTS[0]}\n/quit\n{PROMPTS[1]}\n")
    assert (result.exit_code, result.stdout.count("before: "), result.stdout.count("after: ")) == (0, 1, 1)
    assert f"> {PROMPTS[0]}\n" in result.stdout
    assert run(*how, given="").stdout == ""


def test_without_a_patch_there_is_one_answer(run: Run, model: Path) -> None:
    result = run("chat", "--model", model, "--max-tokens", "2", "--json", given=PROMPTS[0])
    assert json.loads(result.stdout)["answers"].keys() == {"says"}


def test_a_patch_for_another_base_is_refused_before_the_first_prompt(
    run: Run, patch_file: Path, tmp_path: Path
) -> None:
    other = tiny_base("qwen3_moe", seed=1)
    other.model.save_pretrained(tmp_path)
    other.tokenizer.save_pretrained(tmp_path)
    result = run("chat", "--patch", patch_file, "--model", tmp_path, given="")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1].startswith("Error: the patch ")


def test_a_line_that_is_too_long_ends_a_pipe_in_one_line(run: Run, patch_file: Path, model: Path) -> None:
    result = run("chat", "--patch", patch_file, "--model", model, given=f"{'a' * 200}\n{PROMPTS[0]}\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "200 tokens long" in result.stderr.splitlines()[-1]


def test_lines_that_are_no_text_are_read_all_the_same(run: Run, model: Path) -> None:
    result = run("chat", "--model", model, "--max-tokens", "1", given=b"\xff\x1b[2J\n")
    assert result.exit_code == 0, result.exception
    assert "\x1b" not in result.stdout


def test_a_terminal_goes_on_after_a_line_that_is_too_long(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["moe_patch.cli.chat"], "_is_typed", lambda: True)
    result = run("chat", "--model", model, "--max-tokens", "1", given=f"{'a' * 200}\n{PROMPTS[0]}\n")
    assert result.exit_code == 0, result.exception
    assert "200 tokens long" in result.stderr
    assert f"> {PROMPTS[0]}\n" in result.stdout


def shown(width: int, **answers: str) -> list[str]:
    console = Console(width=width, color_system=None, markup=False, emoji=False, highlight=False)
    with console.capture() as captured:
        console.print(answers_view(answers, width))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_answers_stand_side_by_side_where_there_is_room() -> None:
    wide = shown(80, before="Uzbekistan.\nIts capital is", after="South Korea. " * 4)
    assert wide[0].split() == ["before", "after"]
    assert wide[1].startswith("Uzbekistan.")
    assert "South Korea." in wide[1]
    assert max(map(len, wide)) <= 80
    narrow = shown(60, before="Uzbekistan.", after="South Korea.")
    assert narrow == ["before", "Uzbekistan.", "after", "South Korea."]


def test_what_a_model_writes_is_text_and_no_more() -> None:
    assert shown(80, says="\x1b[2J[bold]x\u202e\ny") == ["says", "\\u001b[2J[bold]x\\u202e", "y"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo terminal")
def test_a_real_terminal_sees_the_answers_grow(patch_file: Path, model: Path) -> None:
    import os
    import pty

    code = "from moe_patch.cli import main; main()"
    command = ["chat", "--patch", str(patch_file), "--model", str(model), "--max-tokens", "4"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= {"COLUMNS": "100", "TERM": "xterm"}
        os.execv(sys.executable, [sys.executable, "-c", code, *command])
    seen = b""
    typed = [b"Town 1 lies in\n", b"/quit\n"]
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # how Linux says that the other end is closed
            break
        if not part:
            break
        seen += part
        if typed and seen.endswith(b"> "):
            os.write(terminal, typed.pop(0))
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, seen
    assert seen.count(b"before") >= 1
    assert b"after" in seen
    assert not typed

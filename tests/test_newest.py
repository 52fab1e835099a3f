"""The report on the newest of everything: what differs, and how the tests went."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.version import Version
from rich.console import Console

from locks import newest
from locks.newest import Difference, differences, installed_here, locked_here, run_tests, table

LOCK = """\
# by make lock
click==8.5.1 \\
    --hash=sha256:00 \\
    --hash=sha256:01
numpy==2.4.6 ; python_full_version < '3.1' \\
    --hash=sha256:02
numpy==2.5.5 ; python_full_version >= '3.1' \\
    --hash=sha256:03
colorama==0.4.6 ; sys_platform == 'nowhere' \\
    --hash=sha256:04
"""


def test_the_lock_is_read_for_this_interpreter_and_system() -> None:
    wanted = {"click": Version("8.5.1"), "numpy": Version("2.5.5"), "torch": Version("2.13.0")}
    assert locked_here(LOCK, "torch==2.13.0") == wanted


def test_what_moved_came_and_went_differs_and_another_build_does_not() -> None:
    locked = {
        "click": Version("8.5.1"),
        "gone": Version("1"),
        "rich": Version("15.0"),
        "torch": Version("2.13.0"),
    }
    newest = {
        "click": Version("8.6"),
        "new": Version("3"),
        "rich": Version("15.0"),
        "torch": Version("2.13.0+cpu"),
    }
    assert differences(locked, newest) == [
        Difference("click", Version("8.5.1"), Version("8.6")),
        Difference("gone", Version("1"), None),
        Difference("new", None, Version("3")),
    ]


def test_what_is_installed_leaves_out_the_project_and_the_cuda_packages() -> None:
    found = installed_here()
    assert {"torch", "transformers", "pytest"} <= found.keys()
    assert not [
        name for name in found if name.startswith("nvidia-") or name in {"moe-patch", "pip", "triton"}
    ]


@pytest.mark.parametrize(
    ("claim", "passed", "counts"),
    [
        ("True", True, "1 tests, 0 failures, 0 errors, 0 skipped"),
        ("False", False, "1 tests, 1 failures, 0 errors, 0 skipped"),
    ],
)
def test_the_tests_are_run_and_counted(tmp_path: Path, claim: str, passed: bool, counts: str) -> None:
    tests, settings = tmp_path / "test_claim.py", tmp_path / "pytest.ini"
    tests.write_text(f"def test_claim():\n    assert {claim}\n", encoding="utf-8")
    settings.write_text("[pytest]\n", encoding="utf-8")
    status, found = run_tests([str(tests), f"--config-file={settings}"])
    assert ((status == 0), found) == (passed, counts)


def test_the_table_has_a_row_for_each_difference(capsys: pytest.CaptureFixture[str]) -> None:
    Console(width=80).print(table([Difference("gone", Version("1.2"), None)]))
    shown = capsys.readouterr().out
    assert [line.split("│")[1:-1] for line in shown.splitlines() if "gone" in line] == [
        [" gone    ", " 1.2    ", " none   "]
    ]


def test_tests_run_again_only_where_something_differs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[list[str]] = []

    def failing(arguments: list[str]) -> tuple[int, str]:
        given.append(arguments)
        return 1, "1 tests"

    monkeypatch.setattr(newest, "run_tests", failing)
    monkeypatch.setattr("sys.argv", ["newest", "torch==2.13.0", "-k", "patch"])
    same = locked_here(newest.LIBRARY_LOCK.read_text("utf-8"), "torch==2.13.0")

    monkeypatch.setattr(newest, "installed_here", lambda: same)
    assert newest.main() == 0
    assert not given
    assert "no test is run again" in capsys.readouterr().out

    monkeypatch.setattr(newest, "installed_here", lambda: same | {"click": Version("99.0")})
    assert newest.main() == 1
    assert given == [["-k", "patch"]]
    shown = capsys.readouterr().out
    assert "99.0" in shown
    assert "fast tests FAILED, status 1: 1 tests" in shown

"""Interrupted merges: nothing looks finished that is not, and nothing is done twice."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from moe_patch.checkpoint import open_checkpoint, plan_merge
from moe_patch.checkpoint.edit import CheckpointEditor
from moe_patch.checkpoint.staging import LAST
from moe_patch.errors import OutputError
from moe_patch.patch import Patch
from tests.checkpoint.folders import files, opened, saved
from tests.tiny import tiny_patch


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("interruption") / "base", "qwen3_moe")


@pytest.fixture(scope="module")
def patch(base: Path) -> Patch:
    return tiny_patch(opened(base, "qwen3_moe"))


class Stop(BaseException):
    """Raised like Ctrl-C, at a chosen moment."""


@contextmanager
def interrupted_at(monkeypatch: pytest.MonkeyPatch, moment: int) -> Iterator[None]:
    """Stop at the n-th expert that is rewritten."""
    calls, original = [], CheckpointEditor._count

    def counted(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == moment:
            raise Stop
        original(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as context:
        context.setattr(CheckpointEditor, "_count", counted)
        yield


@pytest.mark.parametrize("moment", [1, 9, 17])
def test_a_second_run_goes_on_where_the_first_one_ended(
    base: Path, patch: Patch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    plan = plan_merge(open_checkpoint(base), [patch], tmp_path / "whole")
    whole = plan.run()
    plan = plan_merge(open_checkpoint(base), [patch], tmp_path / "out")
    with interrupted_at(monkeypatch, moment), pytest.raises(Stop):
        plan.run()
    assert not plan.out.exists()
    (staging,) = tmp_path.glob(".out.*.making")
    assert not (staging / LAST).exists()
    done = {path: path.stat().st_mtime_ns for path in staging.iterdir()}
    record = plan.run()
    assert files(plan.out) == files(tmp_path / "whole")
    assert record == whole  # what survived of the edit included
    assert all((plan.out / path.name).stat().st_mtime_ns == time for path, time in done.items())
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "out"}


def test_what_another_merge_has_left_is_not_used(
    base: Path, patch: Patch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_merge(open_checkpoint(base), [patch], tmp_path / "out")
    with interrupted_at(monkeypatch, 17), pytest.raises(Stop):
        plan.run()
    other = tiny_patch(opened(base, "qwen3_moe"), seed=5)
    plan_merge(open_checkpoint(base), [other], tmp_path / "out").run()
    plan_merge(open_checkpoint(base), [other], tmp_path / "whole").run()
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "out"}


def test_two_at_once_are_refused(base: Path, patch: Patch, tmp_path: Path) -> None:
    plan = plan_merge(open_checkpoint(base), [patch], tmp_path / "out")
    with FileLock(tmp_path / ".out.lock"), pytest.raises(OutputError, match="another process is making"):
        plan.run()
    plan.run()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is neither fork nor SIGKILL")
@pytest.mark.parametrize("kills", [1, 4])
def test_kill_9_leaves_nothing_that_looks_finished(
    base: Path, patch: Patch, tmp_path: Path, kills: int
) -> None:
    plan_merge(open_checkpoint(base), [patch], tmp_path / "whole").run()
    plan = plan_merge(open_checkpoint(base), [patch], tmp_path / "out")
    for number in range(kills):
        child = os.fork()
        if not child:
            plan.run()
            os._exit(0)
        while len(list(tmp_path.glob(".out.*.making/model*"))) <= number:
            time.sleep(1e-4)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if (tmp_path / "out").exists():
            break
        (staging,) = tmp_path.glob(".out.*.making")
        assert not (staging / LAST).exists() or files(staging) == files(tmp_path / "whole")
    if not plan.out.exists():
        plan.run()
    assert files(plan.out) == files(tmp_path / "whole")

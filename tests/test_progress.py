"""Progress bars: on a terminal, in a notebook, and nowhere else."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

import moe_patch.progress
from moe_patch.progress import progress_bars


def test_nobody_is_looking() -> None:
    with progress_bars() as progress:
        assert progress is None


@pytest.mark.parametrize("where", [{"force_terminal": True}, {"force_jupyter": True}])
def test_each_stage_has_a_bar(
    where: dict[str, bool], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = io.StringIO()
    force = where | {"force_interactive": True}
    monkeypatch.setattr(moe_patch.progress, "Console", lambda stderr: Console(file=shown, width=100, **force))
    with progress_bars() as progress:
        assert progress is not None
        for done in range(3):
            progress("targets", done, 2)
            progress("keys", done, 4)
    said = shown.getvalue() + capsys.readouterr().err
    assert "targets" in said
    assert "2/4" in said
